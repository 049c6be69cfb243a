"""Jobs and profiles in the folder of a run: those of older versions, and files that cannot be read."""

from pathlib import Path

import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.kept import read_kept_job, read_kept_profile
from tests.jobs.launches import job_of, slurm_profile


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    launch = LaunchFolder(RunDirectory(tmp_path))
    launch.write(job_of(), slurm_profile(tmp_path))
    assert launch.read_job() == job_of() and launch.read_profile() == slurm_profile(tmp_path)


def test_a_submission_of_when_bf16_was_pure_is_that_run(tmp_path: Path) -> None:
    """Whether it waits in a queue or has begun."""
    content = job_of().model_dump(mode="json")
    del content["train"]["tf32"]
    content["train"]["precision"] = "bf16"
    directory = RunDirectory(tmp_path)
    directory.launch.mkdir()
    for path in (directory.spec, directory.launch / "spec.json"):
        write_json(path, content)
    assert LaunchFolder(directory).read_job() == directory.read_spec()
    assert directory.read_spec().train.precision == "bf16_pure"


@pytest.mark.parametrize("read", [read_kept_job, read_kept_profile])
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read .*must see the folder"), (b"", "is damaged"), (b'{"a": ', "is damaged"),
     (b"\xff\xfe", "is damaged"), (b"[1]", "no mapping"), (b'{"train": 3, "a": 1}', "kept.json")],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, read, content: bytes | None, says: str) -> None:
    path = tmp_path / "kept.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"kept.json: .*{says}" if "kept" not in says else says) as error:
        read(path)
    assert "\n" not in str(error.value)
