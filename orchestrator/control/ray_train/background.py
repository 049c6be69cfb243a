"""A thread that keeps what its function raised, for the one who waits for it."""

import threading
from typing import Any

from orchestrator.run.failures import is_fatal, root_cause


class Background(threading.Thread):
    """Calls a function and keeps what it raised."""

    def __init__(self, function: Any) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._function = function
        self._error: BaseException | None = None

    def run(self) -> None:
        """Called by the thread."""
        try:
            self._function()
        except BaseException as error:
            self._error = error

    def reraise(self) -> None:
        """Raise here what the function raised there: the first worker's own error where there is one."""
        if self._error is None:
            return
        failures = getattr(self._error, "worker_failures", None) or {}
        fatal = [failure for failure in failures.values() if is_fatal(failure)]
        raise root_cause(fatal[0]) if fatal else self._error
