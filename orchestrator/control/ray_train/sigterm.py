"""SIGTERM while Ray starts. A private part of Ray, apart from the others because they import Ray Train, for seconds."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Ray's start would replace the handler of SIGTERM by one that ends the process with code 15: it is kept from it.

    Putting ours back afterwards would leave the seconds in between to Ray's.
    """
    from ray._private import utils

    replaced = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = replaced
