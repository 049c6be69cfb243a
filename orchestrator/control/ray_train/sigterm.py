"""SIGTERM while Ray starts. A private part of Ray, apart from the others because they import Ray Train, for seconds."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM through Ray's start, which replaces it twice.

    ``ray.init`` begins with a handler that ends the process with code 15; seconds later Ray's native worker installs
    one that prints a stack and aborts. Ours comes in place of the first, and back as soon as the worker is there.
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
        # Held back meanwhile, for the handler in between aborts: it hands the signal on to ours, and sets an alarm that
        # ends the process three seconds later. Another thread may still have got the signal.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return native_worker(*arguments, **options)
        finally:
            put_back()
            signal.alarm(0)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    utils.set_sigterm_handler, raylet.CoreWorker = put_back, make_worker
    try:
        yield
    finally:
        utils.set_sigterm_handler, raylet.CoreWorker = set_handler, native_worker
        put_back()
