"""Runs on a real Slurm: submitting them, waiting for their attempts, and what their folders say."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec
from tests.e2e.runs import Place, at_rest, training_ranks
from tests.e2e.slurm.cluster import SlurmCluster, processes_of
from tests.jobs_for_tests import small_job

EPOCHS = 12
"""Long enough for the tests to catch a run that is quick."""
STEPS = 12 * EPOCHS
STEPS_OF_AN_ATTEMPT = 3
"""So many are made before an attempt is disturbed."""
ENDED = ("FINISHED", "FAILED", "KILLED")


def job_for(store: Path, name: str, every_steps: int = 50, epochs: int = EPOCHS, workers: int = 2) -> JobSpec:
    """One rank on each of two nodes, unless there are more workers."""
    return small_job(
        store, name, train={"epochs": epochs, "lr": 1e-3, "warmup_epochs": 0.5},
        checkpoint={"every_steps": every_steps}, scale={"workers": workers},
    )  # fmt: skip


def submit(place: Place, job: JobSpec, *options: str) -> str:
    done = place.run("submit", str(place.spec(job)), *options)
    assert done.returncode == 0, done.stderr
    return job_of(place, job.name)


def job_of(place: Place, name: str) -> str:
    """Id of the Slurm job of a run."""
    return str(json.loads((place.directory(name) / "launch" / "submission.json").read_text())["job_id"])


def raw_job_of(place: Place, name: str) -> str:
    """The number that Slurm gives the job of a run that has begun; a task of an array has one of its own."""
    attempts = (place.directory(name) / "launch" / "attempts").iterdir()
    return max(attempts, key=lambda path: path.stat().st_ctime).name.rpartition("-")[0]


def output(place: Place, name: str) -> str:
    """Everything the nodes printed, for a failing test."""
    return "\n".join(path.read_text() for path in sorted((place.directory(name) / "launch" / "slurm").glob("*_log.*")))


def newest_attempt(place: Place, name: str) -> Path:
    """Folder in which the nodes of the job's newest attempt meet."""
    attempts = (place.directory(name) / "launch" / "attempts").glob(f"{raw_job_of(place, name)}-*")
    return max(attempts, key=lambda path: int(path.name.rpartition("-")[2]))


def steps_of_attempt(place: Place, name: str, number: int) -> int | None:
    """How many steps an attempt has made, if it is the newest; None where it has not begun."""
    lines = place.event_lines(name)
    attempts = [at for at, line in enumerate(lines) if line.startswith('{"kind":"attempt"')]
    if len(attempts) < number:
        return None
    return sum(json.loads(line)["kind"] == "step" for line in lines[attempts[-1] :])


def wait_for_attempt(slurm: SlurmCluster, place: Place, name: str, number: int) -> list[psutil.Process]:
    """The job's processes once the attempt has done some steps."""

    def trains() -> bool:
        return (steps_of_attempt(place, name, number) or 0) >= STEPS_OF_AN_ATTEMPT

    slurm.wait_for(f"attempt {number} of {name}", trains, 300, look_s=0.05)
    return processes_of(raw_job_of(place, name))


@contextmanager
def attempt_at_rest(slurm: SlurmCluster, place: Place, name: str, number: int) -> Iterator[list[psutil.Process]]:
    """Processes of an attempt that has done some steps and does no more of them inside the ``with``."""
    begun = partial(steps_of_attempt, place, name, number)
    slurm.wait_for(f"start of attempt {number} of {name}", lambda: begun() is not None, 300, look_s=0.05)
    # To look for them takes as long as many steps.
    ranks = training_ranks(processes_of(raw_job_of(place, name)))
    slurm.wait_for(f"attempt {number} of {name}", lambda: (begun() or 0) >= STEPS_OF_AN_ATTEMPT, 300, look_s=0.02)
    with at_rest(ranks):
        yield processes_of(raw_job_of(place, name))


@contextmanager
def first_attempts_at_rest(slurm: SlurmCluster, runs: Sequence[tuple[Place, str]]) -> Iterator[None]:
    """Runs that begin at about the same time rest after some steps each, in whatever order they come to them."""
    with ExitStack() as resting, ThreadPoolExecutor(len(runs)) as looking:
        at_rest_now = [attempt_at_rest(slurm, place, name, 1) for place, name in runs]
        for started in [looking.submit(resting.enter_context, attempt) for attempt in at_rest_now]:
            started.result()
        yield


def wait_for_stop_request(slurm: SlurmCluster, place: Place, name: str) -> None:
    """Until Slurm's warning has reached the controller."""
    slurm.wait_for("stop request", RunDirectory(place.directory(name)).stop_request.exists, 150)


def submit_urgent(slurm: SlurmCluster, *needs: str) -> str:
    """A short job from the partition before which the runs must give way; it needs all nodes, or what is given."""
    needs = needs or ("-N4", "--exclusive")
    return slurm.run("sbatch", "--parsable", "-p", "urgent", *needs, "-o/dev/null", "--wrap=sleep 1")


def hosts(attempt: Path) -> set[str]:
    """Nodes of an attempt."""
    return {json.loads(path.read_text())["host"] for path in attempt.glob("ready-*.json")}


def other_host(attempt: Path) -> str:
    """The node that is not the head."""
    (other,) = hosts(attempt) - {json.loads((attempt / "head.json").read_text())["host"]}
    return other


def has_ended(place: Place, name: str) -> bool:
    """Whether the controller of a run, if there is one yet, has written how it ended."""
    return (place.directory(name) / "state.json").exists() and place.state(name)["status"] in ENDED


def meetings(place: Place, names: Sequence[str]) -> list[dict[str, Any]]:
    """Address and token of every run whose Ray is up now."""
    found = []
    for name in names:
        for token in (place.directory(name) / "launch" / "attempts").glob("*/token"):
            if (token.parent / "ready-0.json").exists() and not (token.parent / "end.json").exists():
                found.append({"token": token.read_text(), **json.loads((token.parent / "head.json").read_text())})
    return found
