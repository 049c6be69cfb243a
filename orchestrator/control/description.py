"""A run in three lines of Markdown: result, plan, what on which data. MLflow shows them on top of the run's page."""

from collections.abc import Sequence

from orchestrator.evaluation.score import MODEL, NOISY, Score, averages, decibels
from orchestrator.evaluation.shot import TITLES
from orchestrator.report.plan import count_sets
from orchestrator.run.progress import RunProgress, clock
from orchestrator.spec.data import Shot
from orchestrator.spec.job import JobSpec
from samplers.catalogue import Catalogue
from samplers.schedule import Schedule


def describe_run(
    job: JobSpec, device: str, store: str, catalogue: Catalogue, schedule: Schedule, held_out: int, result: str
) -> str:
    """The content of ``mlflow.note.content``.

    store: name of the channels' folder. held_out: number of sets that are only scored. result: one line, of
    :func:`describe_result`.
    """
    # MLflow folds a description after some three lines, so what one looks for stands first.
    lines = [
        f"**Result.** {result}",
        _plan(job, schedule),
        f"{_what(job, device)} {_data(job, store, catalogue, held_out)}",
    ]
    return "\n\n".join([*lines, job.description] if job.description else lines)


def _what(job: JobSpec, device: str) -> str:
    size = job.model.options.get("size")
    return (
        f"**What.** {job.model.name}{f' ({size})' if size else ''}, {job.train.epochs} epochs on {job.scale.text} "
        f"ranks ({device}, ZeRO {job.train.zero_stage}, {job.train.precision}), seed {job.seed}."
    )


def _data(job: JobSpec, store: str, catalogue: Catalogue, held_out: int) -> str:
    noise = "no noise" if job.data.snr_db is None else f"{job.data.snr_db:g} dB"
    held_out_text = f"{held_out} sets held out"
    if job.data.target is not None:
        held_out_text = f"full-shot: trained on {job.data.target} alone and scored on its test samples"
    sets = count_sets(len(catalogue.stored_sets), len(catalogue.set_names))
    return (
        f"**Data.** `{store}`: {sets}, {catalogue.total_samples:,} samples "
        f"and {catalogue.total_tokens:,} tokens an epoch, {noise}; {held_out_text}."
    )


def _plan(job: JobSpec, schedule: Schedule) -> str:
    plan = schedule.plan
    method = f" ({plan.method})" if plan.method else ""
    return (
        f"**Plan.** {plan.strategy}{method}, {len(plan.buckets)} buckets, expected padding {100 * plan.padding:.2f} %, "
        f"{schedule.total_steps:,} steps of {job.batching.global_batch} samples."
    )


def describe_result(
    status: str, progress: RunProgress, scores: Sequence[Score], cause: str | None, shot: Shot = "zero"
) -> str:
    """How a run ended, on one line. shot: what its scores are."""
    parts = [f"{status}{f' ({cause})' if cause else ''} after step {progress.step:,}"]
    if progress.last:
        parts += [f"loss {progress.last['train/loss']:.4f}", f"training {clock(progress.last['time/train_s'])}"]
    if "data/epoch_padding_ratio" in progress.epoch:
        parts.append(f"padding {100 * progress.epoch['data/epoch_padding_ratio']:.2f} % of the last epoch")
    means = [
        f"{task} {decibels(value):.2f} dB"
        for (task, predictor, target), value in averages(scores).items()
        if (predictor, target) == (MODEL, NOISY)
    ]
    if means:
        parts.append(f"{TITLES[shot]} NMSE: {', '.join(means)}")
    return "; ".join(parts) + "."
