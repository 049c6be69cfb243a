"""SIGTERM while Ray starts and ends. A private part of Ray; the others import Ray Train, which takes seconds."""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INSTALL = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"
"""``RayLog::InstallFailureSignalHandler(const char *argv0, bool call_previous_handler)``, which acts once a process."""
UNINSTALL = "_ZN3ray6RayLog21UninstallSignalActionEv"
"""``RayLog::UninstallSignalAction()``, which acts once after each installation."""
PROGRAM = b"wavetrain"


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM through Ray's start, which replaces it twice.

    ``ray.init`` begins with a handler that ends the process with code 15; seconds later Ray's native worker installs
    one that prints a stack and aborts. Ours comes in place of the first, and back at once after the second.
    """
    import ray._raylet
    from ray._private import utils

    raylet: Any = ray._raylet
    handler = signal.getsignal(signal.SIGTERM)
    set_handler, native_worker = utils.set_sigterm_handler, raylet.CoreWorker

    def put_back(unwanted: object = None) -> None:
        _handle(handler)

    def make_worker(*arguments: Any, **options: Any) -> Any:
        install_failure_handler(raylet.__file__, put_back)
        return native_worker(*arguments, **options)

    utils.set_sigterm_handler, raylet.CoreWorker = put_back, make_worker
    try:
        yield
    finally:
        utils.set_sigterm_handler, raylet.CoreWorker = set_handler, native_worker
        put_back()


def install_failure_handler(library: str, put_back: Callable[[], None]) -> None:
    """Install the handlers of Ray's native worker now, so that it does not do it later, and put ours back at once.

    Its construction takes seconds on a busy machine. A signal in that time would reach a thread of Ray's, whatever this
    one blocks: Ray's handler hands it on to ours, and aborts the process three seconds later by an alarm.
    """
    install = getattr(ctypes.CDLL(library), INSTALL)
    install.argtypes, install.restype = [ctypes.c_char_p, ctypes.c_bool], None
    with _sigterm_held(put_back):
        install(PROGRAM, True)


def shut_down() -> None:
    """``ray.shutdown``, with the handler of SIGTERM kept.

    Ray's native worker ends with its handlers taken away, and with them whatever handled the signal in their place,
    without Python's knowledge. That is done here first, so that it does nothing of the kind later.
    """
    import ray

    raylet: Any = ray._raylet
    uninstall = getattr(ctypes.CDLL(raylet.__file__), UNINSTALL)
    uninstall.argtypes, uninstall.restype = [], None
    handler = signal.getsignal(signal.SIGTERM)
    with _sigterm_held(lambda: _handle(handler)):
        uninstall()
    ray.shutdown()


@contextmanager
def _sigterm_held(put_back: Callable[[], None]) -> Iterator[None]:
    """Replace handlers with SIGTERM blocked in this thread, and put ours back before it is not."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        put_back()
        # Of a signal that another thread got in between.
        signal.alarm(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _handle(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
