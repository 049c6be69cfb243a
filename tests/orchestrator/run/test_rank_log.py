"""Logs of ranks: numbered attempts, and everything that a process prints."""

import subprocess
import sys
from pathlib import Path

from orchestrator.run.rank_log import begin_attempt, log_file, logged_ranks, numbers


def test_attempts_are_numbered_from_one_and_a_hidden_one_is_passed_over(tmp_path: Path, monkeypatch) -> None:
    attempts = tmp_path / "attempts"
    assert [begin_attempt(attempts), begin_attempt(attempts)] == [1, 2]
    (attempts / "notes").mkdir()
    monkeypatch.setattr("orchestrator.run.rank_log.numbers", lambda folder: [1])
    assert begin_attempt(attempts) == 3
    assert numbers(attempts) == [1, 2, 3]


def test_what_is_printed_past_python_and_the_stacks_of_a_crash_are_kept(tmp_path: Path) -> None:
    path = log_file(tmp_path, 2, 37)
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom orchestrator.run.rank_log import keep_output\n"
        f"keep_output(Path({str(path)!r}))\n"
        "print('from print')\nsys.stdout.flush()\nos.write(2, b'from the library\\n')\nos.abort()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode < 0 and done.stdout == done.stderr == ""
    text = path.read_text()
    assert "from print" in text and "from the library" in text and "Fatal Python error: Aborted" in text
    assert logged_ranks(tmp_path, 2) == [37] and logged_ranks(tmp_path, 1) == []
