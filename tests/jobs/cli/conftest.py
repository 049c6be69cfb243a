"""The command line in this process."""

import sys
from collections.abc import Callable

import pytest

from jobs.cli.main import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wavetrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code, what is printed and what goes to stderr of a command."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wavetrain", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command
