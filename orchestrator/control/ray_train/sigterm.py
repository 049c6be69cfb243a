"""SIGTERM while Ray starts. A private part of Ray, apart from the others because they import Ray Train, for seconds."""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INSTALL = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"
"""``RayLog::InstallFailureSignalHandler(const char *argv0, bool call_previous_handler)``, which acts once a process."""
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
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

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
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        install(PROGRAM, True)
    finally:
        put_back()
        # Of a signal that another thread got in between.
        signal.alarm(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
