"""Full-shot jobs: a held-out set that a model is trained on, alone, and what of the model follows from it."""

from channels.errors import UserError
from channels.store import ChannelStore
from models.registry import scale_options
from orchestrator.data.planned_store import open_store
from orchestrator.spec.job import JobSpec


def check_target(store: ChannelStore, target: str) -> str:
    """The name of a job's target set.

    Raises:
        UserError: the store has no such held-out set.
    """
    held_out = [name for name, entry in store.sets.items() if entry.role == "zeroshot"]
    if target in held_out:
        return target
    where = f"data.target ({store.path})"
    mend = f"its held-out sets: {', '.join(held_out) or 'none'}"
    if target in store.sets:
        raise UserError(f"{target} is a pre-training set, the target is a held-out one", where=where, mend=mend)
    raise UserError(f"no set {target!r}", where=where, mend=mend)


def fit_to_target(job: JobSpec, store: ChannelStore | None = None) -> JobSpec:
    """The job with those options of its model that follow from the scale of its target, where it has one.

    store: in place of the job's, to plan by.

    Raises:
        UserError: no store, no such set, or unknown options.
    """
    if job.data.target is None:
        return job
    store = store or open_store(job.data.store, job.data.preset)
    shape = store.sets[check_target(store, job.data.target)].spec.shape
    filled = scale_options(job.model.name, job.model.options, shape)
    return job.model_copy(update={"model": job.model.model_copy(update=filled)})
