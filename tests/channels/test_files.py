import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from channels.files import clear_unfinished, unfinished_writes, write_atomically


def test_threads_that_write_one_file_do_not_share_a_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each renames what it wrote itself; with one name the second would find nothing to rename."""
    path = tmp_path / "state.json"
    replace, both = Path.replace, threading.Barrier(2)
    errors: list[BaseException] = []

    def replace_together(self: Path, target: Path) -> Path:
        both.wait(10)
        return replace(self, target)

    def write(content: str) -> None:
        try:
            write_atomically(path, content)
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(Path, "replace", replace_together)
    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not errors
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_what_a_killed_write_leaves_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "state.json"
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok: None)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "{}")
    assert unfinished_writes(path) == list(tmp_path.iterdir())


def killed_write(path: Path) -> None:
    """A process that is killed after it wrote its temporary file, before it renames it."""
    code = (
        "import os, signal, sys; from pathlib import Path; from channels.files import write_atomically\n"
        "Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), '{}')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9


def test_what_dead_writers_left_is_cleared_and_nothing_else(tmp_path: Path):
    (tmp_path / "deeper").mkdir()
    killed_write(tmp_path / "state.json")
    killed_write(tmp_path / "deeper" / "a b.json")
    others = [tmp_path / name for name in ("state.json", ".hidden.tmp", "x.1-2.tmp", ".model-best.tmp", ".a.1-2.tmpx")]
    for path in others:
        path.write_text("kept")
    clear_unfinished(tmp_path, older_than_s=600)
    assert unfinished_writes(tmp_path / "state.json")
    os.utime(*unfinished_writes(tmp_path / "state.json"), (0, 0))
    clear_unfinished(tmp_path, older_than_s=600)
    assert not unfinished_writes(tmp_path / "state.json") and list((tmp_path / "deeper").iterdir())
    clear_unfinished(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)


def test_a_file_that_its_writer_renames_meanwhile_ends_no_clearing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ".node.json.12.tmp"
    (tmp_path / name).touch()
    is_file = Path.is_file

    def renamed_after(self: Path) -> bool:
        found = is_file(self)
        if self.name == name:
            self.rename(tmp_path / "node.json")
        return found

    monkeypatch.setattr(Path, "is_file", renamed_after)
    clear_unfinished(tmp_path, older_than_s=600)
    assert [path.name for path in tmp_path.iterdir()] == ["node.json"]
