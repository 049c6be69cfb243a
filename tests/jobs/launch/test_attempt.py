"""The controller of a submitted run."""

from pathlib import Path

import pytest

from channels.files import write_json
from channels.store import ChannelStore
from jobs.launch.attempt import main
from jobs.launch.folder import LaunchFolder
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from tests.jobs_for_tests import small_job


@pytest.mark.parametrize(("status", "code", "says"), [("FINISHED", 0, "has finished the run"), ("FAILED", 2, "exists")])
def test_an_attempt_at_a_finished_run_is_a_success(
    tmp_path: Path, small_store: Path, capsys: pytest.CaptureFixture[str], status: str, code: int, says: str
) -> None:
    job = small_job(small_store, "run")
    other = job.model_copy(update={"seed": job.seed + 1}) if status == "FAILED" else job
    directory = RunDirectory(tmp_path / "run")
    LaunchFolder(directory).write(job, Profile.model_validate({"storage": {"runs": str(tmp_path)}}))
    write_json(directory.spec, other.model_dump(mode="json"))
    directory.update_state(status=status, store_fingerprint=ChannelStore.open(small_store).fingerprint)
    before = sorted(tmp_path.rglob("*"))
    assert main(str(directory.path), "127.0.0.1:1") == code
    assert says in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
