"""The ledger of a run: every second of its wall time, over all attempts, belongs to exactly one part.

It is a fold over records that lie in the run's folder anyway: what rank 0 wrote of its steps, what was decided after
failures, when controllers began and ended. The time between two records goes to the part that the later one shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PARTS = (
    "queued",
    "start",
    "compute",
    "data_wait",
    "communication",
    "checkpoint",
    "evaluation",
    "repeated",
    "recovery",
    "stopped",
)
"""queued: submitted and not begun. start: processes come up or go down. repeated: steps that were done before.
recovery: from the last sign of a failed attempt to the first step of the next. stopped: nothing of it was running."""
SKEW_S = 60.0
"""Clocks of two nodes differ by less; where the time goes back by more, a clock was set."""
EVALUATION = "time/evaluation_s"


@dataclass(slots=True)
class Ledger:
    """Seconds of each part so far; takes in records in their order."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    step: int = 0
    """Optimizer steps done."""
    _now: float | None = None
    _phase: str = "start"
    """``training``, or the part of the time until the first step of an attempt or until the end."""
    _furthest: int = 0
    """Most steps that any attempt has done."""
    _awaits_attempt: bool = False
    """The last attempt has failed and the next one has not begun."""
    _ranks_ended: bool = False
    """They have trained to the end, and what is left is to score."""
    _submitted: float | None = None
    """The submission that the last controller came from."""

    @property
    def wall_s(self) -> float:
        """From the first record to the last."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Of the wall time, that of compute and communication: steps that counted, without waiting for data."""
        return (self.seconds["compute"] + self.seconds["communication"]) / max(self.wall_s, 1e-9)

    def to_metrics(self) -> dict[str, float]:
        """By their names in MLflow."""
        return {"goodput/share": self.share} | {f"goodput/{part}_s": value for part, value in self.seconds.items()}

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a line of ``events.jsonl``, ``failures.jsonl`` or ``tracking.jsonl``; most kinds say nothing."""
        match record["kind"]:
            case "begin":
                self._begin(record["time"], record["submitted"])
            case "attempt":
                # A group that another one replaces without a failure is being resized.
                self._phase = "start" if self._phase == "training" else self._phase
                self._count(self._phase, self._pass(record["time"]))
                self.step = record["step"]
                self._awaits_attempt = self._ranks_ended = False
            case "step":
                self._train(self._pass(record["time"]), record["step"], record.get("took"))
            case "skipped":
                self._train(self._pass(record["time"]), record["step"], None)
            case "export":
                self._export(self._pass(record["time"]), record["metrics"]["perf/export_stall_ms"] / 1e3)
            case "failure":
                self._count("recovery", self._pass(record["time"]))
                self._phase = "recovery" if record["retry"] else "start"
                self._awaits_attempt = record["retry"]
            case "end":
                self._end(self._pass(record["time"]), of_ranks="outcome" in record)
            case "metrics" if self._ranks_ended and EVALUATION in record["values"]:
                self._evaluate(self._pass(record["time"]), record["values"][EVALUATION])

    def _pass(self, time: float) -> float:
        """Seconds since the last record."""
        before, self._now = self._now, time
        if before is None:
            return 0.0
        if before - SKEW_S < time < before:
            self._now = before
        return max(time - before, 0.0)

    def _count(self, part: str, seconds: float) -> None:
        # Differences of what is not exact may be less than nothing.
        self.seconds[part] += max(seconds, 0.0)

    def _begin(self, time: float, submitted: float | None) -> None:
        """A controller has begun; before that the run waited for its turn or was not there."""
        if self._now is None:
            self._now = min(time, time if submitted is None else submitted)
        # A command may work on several runs, one after the other.
        time = max(time, self._now)
        spent = self._pass(time)
        # A submission is waited for once; without its controller's end, Slurm may have put its job back into the queue.
        waits = submitted != self._submitted or self._phase != "stopped"
        queued = 0.0 if submitted is None or not waits else min(max(time - submitted, 0.0), spent)
        self._count("queued", queued)
        self._count("stopped", spent - queued)
        self._phase = "start"
        self._awaits_attempt = self._ranks_ended = False
        self._submitted = self._submitted if submitted is None else submitted

    def _train(self, spent: float, step: int, took: Mapping[str, float] | None) -> None:
        """Steps since the last line. took: seconds of all since then, of the steps, in them of waiting for data and of
        communication, and beside them of saving; None: the steps took all of it."""
        everything = spent if took is None else min(took["all_s"], spent)
        steps = everything if took is None else min(took["steps_s"], everything)
        wait = 0.0 if took is None else min(took["wait_s"], steps)
        exchange = 0.0 if took is None else min(took["exchange_s"], steps - wait)
        saving = 0.0 if took is None else min(took["saving_s"], everything - steps)
        if self._phase == "training":
            # The machine slept, or its clock was set: no process of the run had that time.
            self._count("stopped", spent - everything)
        else:
            self._count(self._phase, spent - steps)
            everything, saving = steps, 0.0
        known = min(max(self._furthest - self.step, 0), max(step - self.step, 1)) / max(step - self.step, 1)
        self._count("checkpoint", saving)
        self._count("repeated", known * (everything - saving))
        self._count("data_wait", (1 - known) * wait)
        self._count("communication", (1 - known) * exchange)
        self._count("compute", (1 - known) * (everything - saving - wait - exchange))
        self.step, self._furthest = step, max(self._furthest, step)
        # The last lines of a failed attempt may have a later time than its failure, which another process writes down.
        if not self._awaits_attempt:
            self._phase = "training"

    def _export(self, spent: float, stalled: float) -> None:
        exported = min(stalled, spent)
        self._count("evaluation", exported)
        self._count("compute" if self._phase == "training" else self._phase, spent - exported)

    def _end(self, spent: float, *, of_ranks: bool) -> None:
        """The last steps are done and state and weights are saved, or the controller ends."""
        self._count(("checkpoint" if of_ranks else "stopped") if self._phase == "training" else self._phase, spent)
        self._phase = "start" if of_ranks else "stopped"
        self._ranks_ended = of_ranks

    def _evaluate(self, spent: float, seconds: float) -> None:
        scored = min(seconds, spent)
        self._count("evaluation", scored)
        self._count("start", spent - scored)
