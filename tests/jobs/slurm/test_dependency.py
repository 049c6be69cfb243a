"""``submit --after``: which job is waited for, and what cannot be."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import JobState, State
from jobs.slurm.dependency import cluster_name, job_to_wait_for
from jobs.slurm.executor import render
from jobs.slurm.submission import prepare_submission
from orchestrator.run.folder import RunDirectory
from tests.jobs.launches import job_of, slurm_profile


def config(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess(command, 0, "Configuration data\nClusterName             = h800\nX = 1\n", "")


def run_of(folder: Path, **submission: str) -> RunDirectory:
    directory = RunDirectory(folder / "first")
    LaunchFolder(directory).path.mkdir(parents=True)
    if submission:
        write_json(LaunchFolder(directory).submission, submission)
    return directory


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_on_its_way_is_waited_for(tmp_path: Path, state: State) -> None:
    directory = run_of(tmp_path, launcher="slurm", job_id="40_3", cluster="h800")
    assert job_to_wait_for(directory, lambda submission: JobState(state), config) == "40_3"


def test_a_finished_run_is_not_waited_for(tmp_path: Path) -> None:
    directory = run_of(tmp_path, launcher="slurm", job_id="40")
    directory.update_state(status="FINISHED")
    assert job_to_wait_for(directory, lambda submission: None, config) is None


@pytest.mark.parametrize(
    ("submission", "state", "says"),
    [({}, "RUNNING", "--after first: the run was not submitted to Slurm"),
     ({"launcher": "ray", "job_id": "x"}, "RUNNING", "was not submitted to Slurm"),
     ({"launcher": "slurm", "job_id": "7"}, "FAILED", r"the run is FAILED \(why\); submit it again"),
     ({"launcher": "slurm", "job_id": "7"}, "KILLED", r"the run is KILLED \(why\)"),
     ({"launcher": "slurm", "job_id": "7"}, "UNKNOWN", r"the run is UNKNOWN \(why\)"),
     ({"launcher": "slurm", "job_id": "7", "cluster": "a100"}, "RUNNING", "in the Slurm 'a100', not in 'h800'")],
)  # fmt: skip
def test_what_cannot_be_waited_for_is_one_line(
    tmp_path: Path, submission: dict[str, str], state: State, says: str
) -> None:
    directory = run_of(tmp_path, **submission)
    with pytest.raises(UserError, match=says):
        job_to_wait_for(directory, lambda submission: JobState(state, "why"), config)


def test_a_slurm_that_does_not_name_itself_has_no_name() -> None:
    assert cluster_name(config) == "h800"
    assert cluster_name(lambda command: subprocess.CompletedProcess(command, 1, "", "no answer")) is None


def test_the_script_has_the_dependency(tmp_path: Path) -> None:
    lines = render(prepare_submission(job_of(), slurm_profile(tmp_path), "40_3")).splitlines()
    assert {"#SBATCH --dependency=afterok:40_3", "#SBATCH --kill-on-invalid-dep=yes"} <= set(lines)
