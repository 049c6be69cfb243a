"""What is written when a controller begins."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from channels.files import write_json
from orchestrator.control.announce import note_begin
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking.outbox import Outbox


@pytest.mark.parametrize(("launcher", "submission", "since"), [
    ("slurm", {"submitted": 5.0}, 5.0), ("slurm", {"submitted": 5.0, "requeued": 8.0}, 8.0),
    ("ray", {"submitted": 5.0}, 5.0), ("slurm", {}, None), ("local", {"submitted": 5.0}, None),
])  # fmt: skip
def test_only_a_submitted_controller_was_in_a_queue(
    tmp_path: Path, launcher: str, submission: dict[str, Any], since: float | None
) -> None:
    directory = RunDirectory(tmp_path)
    directory.launch.mkdir()
    write_json(directory.launch / "submission.json", submission)
    begun: list[tuple[float, float | None]] = []
    outbox = cast("Outbox", SimpleNamespace(begin=lambda *times: begun.append(times)))
    note_begin(directory, outbox, launcher, 9.0)
    assert begun == [(9.0, since)]
