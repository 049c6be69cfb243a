"""Scores while training goes on: exports that rank 0 leaves at the ends of epochs are scored in order."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from channels.errors import UserError
from orchestrator.control.scoring import Scoring, keep_if_best
from orchestrator.run.events import EventWriter, repair
from orchestrator.run.exports import step_of, waiting_exports
from orchestrator.run.failures import in_one_line
from orchestrator.run.folder import RunDirectory
from orchestrator.run.progress import scores_in_words
from orchestrator.spec.evaluation import Select
from orchestrator.tracking.outbox import Outbox


class EpochScores:
    """Polled by the controller; a scoring that fails costs its scores, not the run.

    start: submits the scoring of an export. select: what chooses the best model.
    """

    def __init__(
        self,
        directory: RunDirectory,
        start: Callable[[Path], Scoring],
        outbox: Outbox,
        say: Callable[[str], None],
        select: Select = "zeroshot",
    ) -> None:
        self._directory, self._start, self._outbox, self._say = directory, start, outbox, say
        self._select: Select = select
        self._under_way: Scoring | None = None

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Start the next scoring or see how the current one is doing; whether there is anything to do."""
        from ray.exceptions import RayError

        exports = self._unscored() if self._under_way is None else [self._under_way.export]
        if not exports:
            return False
        try:
            self._under_way = self._under_way or self._start(exports[0])
            self._take(self._under_way, timeout_s)
        # A task that failed, a full disk (as it is, or as our files say it), sets of which no task has a score.
        except (RayError, OSError, UserError, ArithmeticError, KeyError) as error:
            self._say(f"warning: {exports[0].name} was not scored: {in_one_line(error)}")
            self.cancel()
            self._leave(exports[0])
        return True

    def cancel(self) -> None:
        """Give up; what is not scored is scored when the run goes on."""
        if self._under_way is not None:
            self._under_way.cancel()

    def _unscored(self) -> list[Path]:
        """Complete exports in order; those of epochs that a resumed attempt repeated are dropped."""
        exports = waiting_exports(self._directory)
        scored = int(self._directory.read_state().get("scored_step", -1)) if exports else -1
        for export in exports:
            if step_of(export) <= scored:
                shutil.rmtree(export)
        return [export for export in exports if step_of(export) > scored]

    def _take(self, scoring: Scoring, timeout_s: float) -> None:
        scores = scoring.poll(timeout_s)
        if scores is None:
            return
        step, found = step_of(scoring.export), scores.chosen_by(self._select)
        metrics = scores.to_metrics()
        self._outbox.metrics(metrics | {"time/evaluation_s": scoring.seconds}, step=step, time_s=time.time())
        best = keep_if_best(self._directory, scoring.export, found, step, self._select)
        record_scores(self._directory, step, metrics)
        # After it: a controller that ends in between scores the export again.
        self._directory.update_state(scored_step=step)
        self._say(f"step {step}: {scores_in_words(metrics)}{', the best so far' if best else ''}")
        self._leave(scoring.export)

    def _leave(self, export: Path) -> None:
        shutil.rmtree(export)
        self._under_way = None


def record_scores(directory: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
    """Append the scores of a model to the run's own record; a step that is scored again has another line."""
    repair(directory.scores)
    with EventWriter(directory.scores) as writer:
        writer.write("scores", step=step, metrics=dict(metrics))
