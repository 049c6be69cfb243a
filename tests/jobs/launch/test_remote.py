"""``--host``: the same command on a login node, by a stand-in for ssh that runs it here."""

import os
import sys
from pathlib import Path

import pytest

from jobs.cli.main import main
from jobs.launch.remote import without_host

SSH = """#!/bin/sh
[ "$1" = -- ] || exit 9
echo "$2" > "$HOME/login"; [ "$2" = away ] && exit 255
cd "$HOME" && exec /bin/sh -c "$3"
"""
WAVETRAIN = '#!/bin/sh\necho "$PWD $ACTIVATED"; for word; do echo "<$word>"; done; exit 3\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the login node, with a checkout whose environment has the command."""
    for name, text in (("bin/ssh", SSH), ("site/wavetrain", WAVETRAIN)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    activate = tmp_path / "my checkout" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={tmp_path / 'site'}:$PATH; export ACTIVATED=1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["wavetrain", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [("submit", "no such.yaml", "--cluster", "h800", "--set", "name=$(id) it's"), ("status", "--json"),
     ("logs", "demo", "--follow"), ("cancel", "demo", "--now")],
)  # fmt: skip
def test_the_same_words_reach_the_command_over_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *arguments, "--host", "me@login:~/my checkout") == 3
    words = "".join(f"<{word}>\n" for word in arguments)
    assert capfd.readouterr().out == f"{home / 'my checkout'} 1\n{words}"
    assert (home / "login").read_text() == "me@login\n"


@pytest.mark.parametrize(
    ("host", "says"),
    [("login", "not of the form LOGIN:FOLDER"), ("login:", "not of the form"), (":folder", "not of the form"),
     ("-oProxyCommand=id:folder", "not of the form"), ("away:folder", "ssh does not reach it; try: ssh away true")],
)  # fmt: skip
def test_what_cannot_work_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], host: str, says: str
) -> None:
    assert run(monkeypatch, "status", f"--host={host}") == 2
    error = capfd.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_machine_without_ssh_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(monkeypatch, "status", "--host", "login:folder") == 2
    assert "ssh is not installed here" in capfd.readouterr().err


def test_the_option_is_taken_out_in_both_forms() -> None:
    assert without_host(["status", "--host", "a:b", "run", "--host=c:d", "--json"]) == ["status", "run", "--json"]
