"""The plans of a study's runs, made before the first one starts."""

from collections.abc import Sequence

from channels.errors import UserError
from jobs.studies.spec import Child
from models.registry import make_spec
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import open_training_data
from orchestrator.data.target import fit_to_target


def check_plans(children: Sequence[Child]) -> None:
    """Plan every run; the last one of a study would otherwise be refused hours after the first one began.

    Raises:
        UserError: the batches of a run cannot be made of its channels; it names the run.
    """
    for child in children:
        try:
            job = fit_to_target(child.job)
            spec = make_spec(job.model.name, job.model.options)
            catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed)
            make_schedule(job, catalogue, data.flops)
        except UserError as error:
            raise UserError(str(error), where=f"run {child.job.name}") from None
