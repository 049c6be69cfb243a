"""Specs and profiles as the folder of a run keeps them: resolved, in JSON."""

from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import parse_json
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from orchestrator.spec.yaml_files import validate


def read_kept_job(path: Path) -> JobSpec:
    """The job of a file; one of an older version is the job that it was then.

    Raises:
        UserError: the file cannot be read, or holds no job.
    """
    content = _read(path)
    train = content.get("train")
    if isinstance(train, dict) and train.get("precision") == "bf16" and "tf32" not in train:
        # Written when bf16 was the name of bf16_pure, before there was tf32.
        train["precision"] = "bf16_pure"
    return validate(JobSpec, content, str(path))


def read_kept_profile(path: Path) -> Profile:
    """The cluster profile of a file.

    Raises:
        UserError: the file cannot be read, or holds no profile.
    """
    return validate(Profile, _read(path), str(path))


def _read(path: Path) -> dict[str, Any]:
    mend = "bring it back from a copy, or submit or start the run again under another name"
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        mend = "this machine must see the folder of the runs, with the right to read it"
        raise UserError(f"cannot be read ({error.strerror})", where=str(path), mend=mend) from None
    except ValueError as error:
        raise UserError(f"is damaged ({error})", where=str(path), mend=mend) from None
    if not isinstance(content, dict):
        raise UserError("is damaged (no mapping)", where=str(path), mend=mend)
    return content
