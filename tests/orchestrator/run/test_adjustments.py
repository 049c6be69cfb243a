"""Adjustments of later attempts: kept, cut by bucket, and broken or older files refused in one line."""

import json
from pathlib import Path

import pytest

from channels.errors import UserError
from orchestrator.run.adjustments import Adjustments, micro_batches, read_adjustments, write_adjustments


def test_adjustments_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "adjustments.json"
    assert read_adjustments(path) == Adjustments()
    for adjustments in (Adjustments((1, 2), {3: 4, 0: 1}), Adjustments((5,)), Adjustments()):
        write_adjustments(path, adjustments)
        assert read_adjustments(path) == adjustments


@pytest.mark.parametrize("content", ["{}", "[]", "1", '{"skipped_steps": [1], "micro_batch": "4"}', "{"])
def test_a_broken_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "adjustments.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"adjustments\.json: broken"):
        read_adjustments(path)


def test_a_file_of_an_earlier_version_is_read_where_no_micro_batch_was_cut_and_refused_else(tmp_path: Path) -> None:
    path = tmp_path / "adjustments.json"
    path.write_text(json.dumps({"skipped_steps": [2, 3], "micro_batch": None}))
    assert read_adjustments(path) == Adjustments((2, 3))
    path.write_text(json.dumps({"skipped_steps": [2, 3], "micro_batch": 8}))
    with pytest.raises(
        UserError, match=r"adjustments\.json: an earlier version cut .* to 8, .*; write, .*\"0\": 8"
    ) as old:
        read_adjustments(path)
    assert "\n" not in str(old.value)


def test_a_bucket_is_cut_by_itself() -> None:
    assert micro_batches(8, {}, 3) == (8, 8, 8)
    assert micro_batches(8, {1: 4}, 3) == (8, 4, 8)
    assert micro_batches((2, 8, 16), {1: 4, 0: 4}, 3) == (2, 4, 16)
