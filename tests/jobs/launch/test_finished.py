"""Which finished runs stand for a job."""

from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.cli.submit import submit_sweep
from jobs.launch.finished import is_finished
from jobs.launch.sweep import Sweep
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from tests.jobs_for_tests import small_job


def finished(folder: Path, **sections: Any) -> RunDirectory:
    directory = RunDirectory(folder / "runs" / "small")
    directory.path.mkdir(parents=True)
    write_json(directory.spec, small_job(folder / "store", **sections).model_dump(mode="json"))
    directory.update_state(status="FINISHED", store_fingerprint="here")
    return directory


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"data": {"store": "/other"}}, "data.store"),
        ({"data": {"zeroshot_sets": ["D1", "D3"]}}, "data.zeroshot_sets"),
        ({"evaluation": {"references": ["lmmse"]}}, "evaluation.references"),
        ({"evaluation": {"samples": 4}}, "evaluation.samples"),
        ({"train": {"lr": 2e-3}}, "train.lr"),
    ],
)
def test_a_run_that_was_trained_or_scored_otherwise_stands_for_no_job(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    job, directory = small_job(tmp_path / "store", **changed), finished(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        is_finished(job, directory, "take another name")
    assert "take another name" in str(caught.value) and "\n" not in str(caught.value)
    profile = Profile.model_validate({"storage": {"runs": str(directory.path.parent)}})
    with pytest.raises(UserError, match=says):
        submit_sweep(Sweep("sweep", ("x",), (job,)), profile, 1)


def test_the_same_run_stands_for_its_job_on_the_same_channels(tmp_path: Path) -> None:
    job, directory = small_job(tmp_path / "store", evaluation={"batch": 3}), finished(tmp_path)
    assert is_finished(job, directory, "") and is_finished(job, directory, "", "here")
    assert not is_finished(job, RunDirectory(tmp_path / "runs" / "none"), "")
    with pytest.raises(UserError, match="content of"):
        is_finished(job, directory, "", "other")
