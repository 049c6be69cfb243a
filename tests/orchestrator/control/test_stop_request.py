"""The first signal asks, the second interrupts while there is anything to, and handlers of others come back."""

import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.control.stop_request import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with StopRequest().installed() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == number, "the first one decides the exit code"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {each: signal.getsignal(each) for each in before} == before


@pytest.fixture
def as_in_a_command() -> Iterator[None]:
    """SIGTERM ends the process, as with the handler of a command, and the test's own comes back."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the process ends with 143"))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("as_in_a_command")
def test_sigterm_comes_too_late_when_all_work_is_done_and_a_second_ctrl_c_does_not() -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    with StopRequest().installed() as stop:
        stop.past_sigterm()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == interrupt


@pytest.mark.usefixtures("as_in_a_command")
def test_nothing_interrupts_the_end_and_a_second_ctrl_c_hurries_it() -> None:
    with StopRequest().installed() as stop:
        stop.past_interrupting()
        for number, is_hurried in ((signal.SIGTERM, False), (signal.SIGTERM, False), (signal.SIGINT, True)):
            os.kill(os.getpid(), number)
            assert stop.is_hurried is is_hurried
    os.kill(os.getpid(), signal.SIGTERM)
