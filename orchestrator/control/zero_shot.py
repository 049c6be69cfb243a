"""The zero-shot table of a run: beside the training after some epochs, and of the final model."""

import time
from collections.abc import Callable, Collection
from functools import partial

from orchestrator.control.epoch_scores import EpochScores, record_scores
from orchestrator.control.prepared import Prepared
from orchestrator.control.scoring import keep_if_best, start_scoring
from orchestrator.evaluation.score import Score
from orchestrator.evaluation.shot import TITLES
from orchestrator.report.results import write_results
from orchestrator.tracking.outbox import Outbox

POLL_S = 0.3


def score_epochs(of: Prepared, outbox: Outbox, say: Callable[[str], None]) -> EpochScores:
    """What scores the exports of epochs; the ranks have claimed all devices, so on CPUs."""
    start = partial(start_scoring, of.job, of.profile, of.store.path, of.zeroshot, of.validation, beside_training=True)
    return EpochScores(of.directory, start, outbox, say, of.job.evaluation.select)


def score_final_model(
    of: Prepared,
    outbox: Outbox,
    say: Callable[[str], None],
    is_stopped: Callable[[], bool],
    left_out: Collection[str] = (),
) -> list[Score] | None:
    """Score every held-out set, and the validation samples where epochs were; write the tables; None: asked to stop.

    left_out: names of nodes with a broken device.
    """
    scores = _score(of, outbox, say, is_stopped, left_out) if of.zeroshot or of.validation else []
    if scores is None:
        return None
    for path in write_results(scores, of.directory.results, of.job.data.shot):
        outbox.artifact(path, "results")
    return scores


def _score(
    of: Prepared,
    outbox: Outbox,
    say: Callable[[str], None],
    is_stopped: Callable[[], bool],
    left_out: Collection[str],
) -> list[Score] | None:
    say(f"evaluating {len(of.zeroshot)} {TITLES[of.job.data.shot]} sets")
    directory, step = of.directory, of.schedule.total_steps
    scoring = start_scoring(
        of.job, of.profile, of.store.path, of.zeroshot, of.validation, directory.export, beside_training=False,
        left_out=left_out,
    )  # fmt: skip
    while (scores := scoring.poll(POLL_S)) is None:
        if is_stopped():
            return None
    metrics, section = scores.to_metrics(), of.job.evaluation
    outbox.metrics(metrics | {"time/evaluation_s": scoring.seconds}, step=step, time_s=time.time())
    if section.every_epochs is not None:
        keep_if_best(directory, directory.export, scores.chosen_by(section.select), step, section.select)
        record_scores(directory, step, metrics)
    return scores.zeroshot
