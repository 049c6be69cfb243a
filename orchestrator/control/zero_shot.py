"""The zero-shot table of a run: beside the training after some epochs, and of the final model."""

import time
from collections.abc import Callable
from functools import partial

from orchestrator.control.epoch_scores import EpochScores
from orchestrator.control.prepared import Prepared
from orchestrator.control.scoring import keep_if_best, start_scoring
from orchestrator.evaluation.score import Score
from orchestrator.evaluation.table import to_metrics
from orchestrator.report.results import write_results
from orchestrator.tracking.outbox import Outbox

POLL_S = 0.3


def score_epochs(of: Prepared, outbox: Outbox, say: Callable[[str], None]) -> EpochScores:
    """What scores the exports of epochs; the ranks have claimed all devices, so on CPUs."""
    start = partial(start_scoring, of.job, of.profile, of.store.path, of.zeroshot, beside_training=True)
    return EpochScores(of.directory, start, outbox, say)


def score_final_model(
    of: Prepared, outbox: Outbox, say: Callable[[str], None], is_stopped: Callable[[], bool]
) -> list[Score] | None:
    """Score every held-out set, one Ray task each, and write the tables; None when asked to stop."""
    scores = _score(of, outbox, say, is_stopped) if of.zeroshot else []
    if scores is None:
        return None
    for path in write_results(scores, of.directory.results):
        outbox.artifact(path, "results")
    return scores


def _score(
    of: Prepared, outbox: Outbox, say: Callable[[str], None], is_stopped: Callable[[], bool]
) -> list[Score] | None:
    say(f"evaluating {len(of.zeroshot)} zero-shot sets")
    directory, step = of.directory, of.schedule.total_steps
    scoring = start_scoring(of.job, of.profile, of.store.path, of.zeroshot, directory.export, beside_training=False)
    while (scores := scoring.poll(POLL_S)) is None:
        if is_stopped():
            return None
    directory.update_state(evaluation_s=round(scoring.seconds, 3))
    outbox.metrics(to_metrics(scores) | {"time/evaluation_s": scoring.seconds}, step=step, time_s=time.time())
    if of.job.evaluation.every_epochs is not None:
        keep_if_best(directory, directory.export, scores, step)
    return scores
