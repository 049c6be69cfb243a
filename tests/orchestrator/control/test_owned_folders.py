"""What killed sessions leave in the machine's memory, where nobody was left to remove it."""

from pathlib import Path

import pytest

from orchestrator.control.owned_folders import OWNER, SessionMemory
from orchestrator.control.ray_train import reaper, session
from orchestrator.spec.cluster import Profile


def test_the_next_session_removes_what_has_no_owner_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "SHARED_MEMORY", tmp_path)
    killed, living = (SessionMemory(Path(f"/tmp/wt-{name}")) for name in ("killed", "living"))
    folders = [Path(memory.environment[reaper.MEMORY]) for memory in (killed, living)]
    for folder in folders:
        (folder / "rank-00000-of-00001-0.safetensors").touch()
    (tmp_path / "wt-of-others").mkdir()
    (tmp_path / "sem.of-others").touch()
    # As at the end of its process.
    killed.release()
    third = SessionMemory(Path("/tmp/wt-third"))
    assert third.environment == {reaper.MEMORY: str(tmp_path / "wt-third")}
    assert not folders[0].exists() and len(list(folders[1].iterdir())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"wt-living", "wt-third", "wt-of-others", "sem.of-others"}
    living.release()
    third.release()


def test_an_embedded_session_owns_its_memory_until_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(session.fork_server, "serves", lambda device: False)
    abandoned = tmp_path / "wt-killed"
    abandoned.mkdir()
    (abandoned / OWNER).touch()
    with session.session_ahead(Profile()) as begun:
        assert begun is not None
        memory = Path(begun.environment[reaper.MEMORY])
        assert not abandoned.exists()
        SessionMemory(Path("/tmp/wt-another")).release()
        assert (memory / OWNER).exists()
    SessionMemory(Path("/tmp/wt-last")).release()
    assert not memory.exists(), "its lock is free"


def test_where_the_memory_is_missing_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "SHARED_MEMORY", tmp_path / "none")
    memory = SessionMemory(Path("/tmp/wt-x"))
    assert memory.environment == {}
    memory.release()
