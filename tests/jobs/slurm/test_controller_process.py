"""The controller of a Slurm attempt before and when it begins; a stand-in for its process."""

import subprocess
from typing import Any, cast

import pytest

from jobs.launch.attempt_word import AFTER_WORD, WORD
from jobs.node import own_processes
from jobs.node.ray_node import RayNode
from jobs.slurm.controller_process import ControllerProcess


def controller(monkeypatch: pytest.MonkeyPatch, *stand_in: str) -> ControllerProcess:
    def start(command: list[str], environment: object, log: None, stdin: int) -> "subprocess.Popen[bytes]":
        assert command[-4:] == ["jobs.launch.attempt", "run", "10.0.0.1:1", AFTER_WORD]
        return subprocess.Popen(stand_in, stdin=stdin, stdout=subprocess.PIPE)

    monkeypatch.setattr(own_processes, "start", start)
    node: Any = type("Node", (), {"environment": {}})
    return ControllerProcess(cast("RayNode", node), "run", "10.0.0.1:1")


def test_it_begins_at_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = controller(monkeypatch, "cat")
    assert ahead._child.poll() is None
    process = ahead.begin()
    assert process.stdout is not None
    assert process.stdout.read() == WORD and process.wait(10) == 0


def test_one_that_has_ended_says_why_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = controller(monkeypatch, "sh", "-c", "exit 3")
    ahead._child.wait(10)
    assert ahead.begin().wait(10) == 3
