"""Whether a finished run stands for a job: one that trained the same and was scored the same, on the same channels."""

from typing import Any

from channels.errors import UserError
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec
from orchestrator.spec.yaml_files import differences


def is_finished(job: JobSpec, directory: RunDirectory, mend: str, store_fingerprint: str | None = None) -> bool:
    """Whether the run need not be made. mend: how to take another name. store_fingerprint: of the channels, where they
    may change under the path of their store; None: the path says which they are.

    Raises:
        UserError: a finished run of another job has the name.
    """
    state = directory.read_state()
    if state.get("status") != "FINISHED":
        return False
    found = differences(_score_identity(directory.read_spec()), _score_identity(job))
    kept = state.get("store_fingerprint")
    if not found and store_fingerprint is not None and kept != store_fingerprint:
        found = [f"content of {job.data.store} differs"]
    if found:
        raise UserError(
            "a finished run of another job has the name", where=str(directory.path), mend=f"{mend} ({found[0]})"
        )
    return True


def _score_identity(job: JobSpec) -> dict[str, Any]:
    """The fields that decide which numbers training and scoring compute. The store counts by its path."""
    identity = job.training_identity
    zeroshot = job.data.zeroshot_sets
    data = {"store": str(job.data.store.absolute()), "zeroshot_sets": None if zeroshot is None else list(zeroshot)}
    # Batches of an evaluation change the rounding only.
    return {
        **identity,
        "data": {**identity["data"], **data},
        "evaluation": job.evaluation.model_dump(mode="json", exclude={"batch"}),
    }
