"""Limits of control groups, on a tree of files as the kernel shows them."""

from pathlib import Path

import pytest

from orchestrator.checkpoint import free_memory
from orchestrator.checkpoint.free_memory import left_in_groups


def write_group(folder: Path, version: int, limit: str, use: int, cached: int = 0) -> None:
    """A group with so many bytes in use, of which the page cache takes some."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, str(use)), strict=True):
        (folder / name).write_text(f"{value}\n")
    prefix = "total_" if version == 1 else ""
    (folder / "memory.stat").write_text(f"anon 7\n{prefix}inactive_file {cached}\n{prefix}active_file 1\n")


def test_the_narrowest_group_of_version_2_counts(tmp_path: Path) -> None:
    job = tmp_path / "slurm" / "job_5"
    write_group(job / "step_0", 2, "max", 100)
    assert left_in_groups("0::/slurm/job_5/step_0\n", tmp_path) is None
    write_group(job, 2, "1000", 300, cached=50)
    write_group(tmp_path / "slurm", 2, "5000", 100)
    assert left_in_groups("0::/slurm/job_5/step_0\n", tmp_path) == 751
    assert left_in_groups("0::/slurm\n", tmp_path) == 4901
    assert left_in_groups("0::/\n", tmp_path) is None
    (job / "memory.stat").unlink()
    assert left_in_groups("0::/slurm/job_5/step_0\n", tmp_path) == 700, "nobody says what the page cache takes"


def test_groups_of_version_1_count_also_where_the_path_is_the_host_s(tmp_path: Path) -> None:
    text = "9:name=systemd:/x\n4:memory:/docker/abc\n1:cpu:/docker/abc\n0::/\n"
    write_group(tmp_path / "memory", 1, str((1 << 63) - 4096), 10)
    assert left_in_groups(text, tmp_path) is None
    write_group(tmp_path / "memory", 1, "2000", 10)
    assert left_in_groups(text, tmp_path) == 1991, "a container sees its own group as the top"
    write_group(tmp_path / "memory" / "docker" / "abc", 1, "900", 400)
    assert left_in_groups(text, tmp_path) == 501


def test_a_group_has_less_room_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for left, room in ((12345, 12345), (-5, 0)):
        monkeypatch.setattr(free_memory, "left_in_groups", lambda membership, left=left: left)
        assert free_memory.room_in(tmp_path) == room
    assert free_memory.room_in(tmp_path / "none") == 0 == free_memory.held_in(tmp_path / "none")


def test_what_a_folder_holds_is_what_its_files_take(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert 1 << 20 <= free_memory.held_in(tmp_path) < 1 << 21
