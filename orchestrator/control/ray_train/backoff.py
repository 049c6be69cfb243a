"""When the next attempt may start: as long after a failure as the failure's record says."""

from pathlib import Path

from orchestrator.run.events import read_events


class Backoff:
    """The wait before an attempt, by the newest record in ``failures.jsonl``; picklable.

    A failure that found no room for its record (a full disk) has no wait. stop_request: a file that ends a wait where
    it exists, because the next attempt is the one that saves and ends.
    """

    def __init__(self, failures: Path, stop_request: Path) -> None:
        self._failures, self._stop_request = failures, stop_request
        _, self._offset = read_events(failures)
        self._not_before = float("-inf")

    def is_over(self, now: float) -> bool:
        """Whether the next attempt may start. now: seconds of a clock that never jumps."""
        events, self._offset = read_events(self._failures, self._offset)
        waits = [float(event["wait_s"]) for event in events if event["retry"]]
        if waits:
            self._not_before = now + waits[-1]
        return now >= self._not_before or self._stop_request.exists()
