"""From a spec and a profile to a checked job, before anything is started or written."""

from pathlib import Path

from channels.store import ChannelStore
from models.registry import make_spec
from orchestrator.control import preflight
from orchestrator.control.prepared import Prepared
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import open_training_data
from orchestrator.data.target import fit_to_target
from orchestrator.evaluation.nmse import check_zeroshot_sets
from orchestrator.evaluation.validation import check_validation_sets
from orchestrator.run.folder import RunDirectory, check_resumable
from orchestrator.run.initial_weights import begun_spec, check_beginning
from orchestrator.shard_cache.placement import check_placement
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from orchestrator.tracking.mlflow_run import check_address, check_uri, default_uri


def prepare(
    job: JobSpec, profile: Profile, *, check_data: bool = True, to_plan: ChannelStore | None = None
) -> Prepared:
    """Everything that can be checked before a run is started.

    check_data: compare the files of the store too. to_plan: a store that is not made yet, in place of the job's.

    Raises:
        UserError: anything that would make the run fail.
    """
    job = fit_to_target(job, to_plan)
    spec = make_spec(job.model.name, job.model.options)
    preflight.check_resources(job, profile)
    preflight.check_model(spec, profile, job.train.precision)
    catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed, store=to_plan)
    zeroshot = check_zeroshot_sets(data.store, job, spec)
    validation = check_validation_sets(data.store, job)
    if check_data and to_plan is None:
        preflight.check_store(data.store)
    preflight.check_batches(job, catalogue)
    schedule = make_schedule(job, catalogue, data.flops)
    check_placement(job.data.placement, data.store, schedule, data.origins, profile.storage.cache, job.data.cache_bytes)
    runs = profile.storage.runs
    initial = check_beginning(job, spec, runs)
    directory = RunDirectory(runs / job.name)
    resumes = _check_folder(directory, job, data.store.fingerprint, schedule.plan.fingerprint)
    return Prepared(
        job=job,
        profile=profile,
        spec=spec if initial is None else begun_spec(job, initial.folder),
        store=data.store,
        catalogue=catalogue,
        schedule=schedule,
        zeroshot=zeroshot,
        validation=validation,
        directory=directory,
        resumes=resumes,
        tracking_uri=_check_tracking(job, runs, under_way=resumes and directory.events.exists()),
        initial=initial,
    )


def _check_folder(directory: RunDirectory, job: JobSpec, store: str, plan: str) -> bool:
    """Whether it holds this very run, unfinished. store, plan: fingerprints."""
    preflight.check_run_folder(directory.path.parent)
    resumes = check_resumable(directory, job, store)
    if resumes:
        preflight.check_plan(directory.plan, plan)
    return resumes


def _check_tracking(job: JobSpec, runs: Path, *, under_way: bool) -> str:
    """The address of the MLflow that the run is tracked in. under_way: the run has trained before."""
    uri = job.tracking.uri or default_uri(runs)
    # A run that is under way goes on without MLflow; a new one is not started where none answers.
    check_address(uri) if under_way or job.tracking.offline else check_uri(uri)
    return uri
