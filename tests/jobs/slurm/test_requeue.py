"""Requeueing beside a Slurm that refuses or does not answer."""

import subprocess
from collections.abc import Iterator

import pytest

from jobs.slurm import requeue as requeueing
from jobs.slurm.requeue import is_in_queue_again, requeue


class Scontrol:
    """Stands for subprocess.run. answers: of a command, 0, an error, or None for none in time; the last one stays."""

    def __init__(self, **answers: list[int | str | None]) -> None:
        self.answers, self.commands = answers, list[str]()

    def __call__(self, command: list[str], timeout: float, **options: object) -> "subprocess.CompletedProcess[str]":
        name = command[command.index("scontrol") + 1]
        self.commands.append(name)
        left = self.answers.get(name, [0])
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is None:
            raise subprocess.TimeoutExpired(command, timeout)
        if name == "show" and answer:
            return subprocess.CompletedProcess(command, 0, answer, "")
        return subprocess.CompletedProcess(command, int(isinstance(answer, str)), "", str(answer))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Iterator[float] = iter(range(10_000))
    monkeypatch.setattr(requeueing.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(requeueing.time, "monotonic", lambda: next(ticks))


def answering(monkeypatch: pytest.MonkeyPatch, **answers: list[int | str | None]) -> Scontrol:
    scontrol = Scontrol(**answers)
    monkeypatch.setattr(subprocess, "run", scontrol)
    return scontrol


def test_a_slurm_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, requeue=[None])
    with pytest.raises(RuntimeError, match="scontrol requeue 41 has not answered in 60 s"):
        requeue("41", [])


def test_a_release_that_fails_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = answering(monkeypatch, release=["busy", None, 0])
    assert requeue("41", ["n2"]) == "requeued without n2"
    assert scontrol.commands == ["requeuehold", "update", "release", "release", "release"]


def test_an_exclusion_without_an_answer_does_not_leave_the_job_held(monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = answering(monkeypatch, update=[None])
    assert requeue("41", ["n2"]) == "requeued, n2 not excluded"
    assert scontrol.commands[-1] == "release"


def test_a_hold_without_an_answer_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = answering(monkeypatch, requeuehold=[None])
    with pytest.raises(RuntimeError, match="requeuehold 41 has not answered"):
        requeue("41", ["n2"])
    assert scontrol.commands == ["requeuehold", "release"]


def test_a_refused_hold_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = answering(monkeypatch, requeuehold=["Access denied"])
    with pytest.raises(RuntimeError, match="Access denied"):
        requeue("41", ["n2"])
    assert scontrol.commands == ["requeuehold"]


def test_a_job_that_stays_held_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, release=["down"])
    with pytest.raises(RuntimeError, match=r"held \(scontrol release 41: down\); scontrol release 41 starts it"):
        requeue("41", ["n2"])


@pytest.mark.parametrize(
    ("answer", "again"),
    [("JobState=PENDING Reason=BeginTime\n   Requeue=1 Restarts=2 BatchFlag=1\n", True),
     ("JobState=RUNNING Reason=None\n   Requeue=1 Restarts=1 BatchFlag=1\n", False),
     ("slurm_load_jobs error: Invalid job id specified", False),
     (None, False)],
)  # fmt: skip
def test_slurm_is_asked_whether_it_has_put_a_job_back(
    monkeypatch: pytest.MonkeyPatch, answer: str | None, again: bool
) -> None:
    """Where it does not answer or does not know, it has not."""
    answering(monkeypatch, show=[answer])
    assert is_in_queue_again("41", 1) is again
