"""The first writes of a run: its spec and plan; and what MLflow shows of it before it trains and at its end."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from channels.files import write_json
from orchestrator.control import provenance
from orchestrator.control.description import describe_result, describe_run
from orchestrator.control.failure_policy import describe_all
from orchestrator.control.prepared import Prepared, RunOutcome
from orchestrator.report.plan import describe_plan
from orchestrator.run.folder import RunDirectory
from orchestrator.run.initial_weights import keep_copy
from orchestrator.run.progress import RunProgress
from orchestrator.tracking.outbox import Outbox

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""


def write_run(of: Prepared) -> None:
    """``spec.json``, which makes the folder that of a run, ``plan.json``, and the weights it begins with."""
    for left in (of.directory.stop_request, of.directory.placed):
        left.unlink(missing_ok=True)
    write_json(of.directory.spec, of.job.model_dump(mode="json"))
    write_json(of.directory.plan, describe_plan(of.catalogue, of.schedule.plan, of.schedule, of.job.scale.most))
    if of.initial is not None:
        keep_copy(of.initial, of.directory)


def note_begin(directory: RunDirectory, outbox: Outbox, launcher: str, began_s: float) -> None:
    """Write down that a controller begins, and since when its job was in a queue. launcher: of its profile. began_s:
    seconds since 1970."""
    submission = provenance.submission_of(directory, launcher)
    outbox.begin(began_s, submission.get("requeued", submission.get("submitted")))


def announce(of: Prepared, outbox: Outbox) -> None:
    """Parameters, tags, data and files that are known before training."""
    plan, directory = of.schedule.plan, of.directory
    shot = of.job.data.shot
    marks: dict[str, Any] = {"wavetrain": {"shot": shot}} if shot == "full" else {}
    outbox.parameters(of.job.model_dump(mode="json") | marks)
    if of.initial is not None:
        outbox.parameters({"model": {"init_sha256": of.initial.sha256}})
    outbox.tags({"wavetrain.shot": shot} | ({"wavetrain.caveats": "; ".join(of.caveats)} if of.caveats else {}))
    outbox.tags(provenance.tags(of.job, of.profile, plan.fingerprint))
    outbox.tags(provenance.launch_tags(directory, of.profile.launcher))
    outbox.tags(note(of, "running."))
    provenance.log_inputs(outbox, of.job, of.store)
    outbox.metrics({"data/plan_padding_ratio": plan.padding}, step=0, time_s=time.time())
    files = [directory.spec, directory.plan, *provenance.write_artifacts(plan, of.catalogue, directory)]
    script = provenance.launch_script(directory)
    for path in [*files, script] if script else files:
        outbox.artifact(path)


def end_tags(
    of: Prepared, outcome: RunOutcome, progress: RunProgress, failures: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Why and with which result a run ended. failures: of all its attempts."""
    result = describe_result(outcome.status, progress, outcome.scores, outcome.cause, outcome.shot)
    tags = {"wavetrain.cause": outcome.cause or "none", **note(of, result)}
    return tags | ({"wavetrain.failures": describe_all(failures)} if failures else {})


def note(of: Prepared, result: str) -> dict[str, str]:
    """The run's description as a tag. result: one line, of ``describe_result``."""
    held_out = len(of.zeroshot)
    text = describe_run(of.job, of.profile.device, of.store.path.name, of.catalogue, of.schedule, held_out, result)
    return {NOTE: text}
