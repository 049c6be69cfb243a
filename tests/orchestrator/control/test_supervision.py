"""The controller's steps while a worker group trains, with one that follows a script."""

from pathlib import Path

import pytest

from channels.files import parse_json
from orchestrator.control.epoch_scores import record_scores
from orchestrator.control.supervision import Follower, see_through
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking.outbox import Outbox
from orchestrator.view.live import LiveView
from tests.orchestrator.control.stand_ins import (
    NoScores,
    ScriptedGroup,
    a_view,
    begin_attempt,
    end_attempt,
    fail_attempt,
)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def a_follower(directory: RunDirectory, view: LiveView) -> Follower:
    return Follower(directory, Outbox(directory), view)


def train(directory: RunDirectory, group: ScriptedGroup, follower: Follower, view: LiveView, **stop) -> NoScores:
    scores = NoScores()
    see_through(
        group, scores, follow=follower.follow, can_save=follower.can_save,
        stop_request=directory.stop_request, view=view, **{"is_stopped": lambda: False} | stop,
    )  # fmt: skip
    return scores


def test_attempts_are_counted_over_all_starts(directory: RunDirectory) -> None:
    for attempts in (2, 4):
        view, _ = a_view()
        script = [begin_attempt(directory, "n1", "n2"), begin_attempt(directory, "n1", "n3")]
        follower = a_follower(directory, view)
        train(directory, ScriptedGroup([*script, end_attempt(directory, "finished")]), follower, view)
        assert (follower.attempts, follower.outcome) == (attempts, "finished")
        assert directory.read_state()["attempts"] == attempts
    tags = [entry["values"] for entry in read_events(directory.tracking)[0]]
    assert [tag["attempt"] for tag in tags] == ["1", "2", "3", "4"]
    assert [tag["nodes"] for tag in tags] == ["n1,n2", "n1,n3"] * 2


def test_failures_are_followed_with_the_machine_of_their_rank(directory: RunDirectory) -> None:
    view, stream = a_view()
    follower = a_follower(directory, view)
    script = [
        begin_attempt(directory, "n1", "n2"), fail_attempt(directory, 1, "gone"),
        begin_attempt(directory, "n3"), fail_attempt(directory, 1, "gone again"),
        fail_attempt(directory, None, "no group"),
        begin_attempt(directory, "n4"), fail_attempt(directory, 0, "n2: GPU 4: must be reset", n2="GPU 4", n5="GPU 0"),
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match="for good"):
        train(directory, ScriptedGroup(script, RuntimeError("for good")), follower, view)
    assert [failure["node"] for failure in directory.read_state()["failures"]] == ["n2", None, None, "n4"]
    assert "attempt 1 failed; again in 1 s: worker of rank 1 on n2: gone" in stream.getvalue()
    assert "attempt 2 failed; again in 1 s: worker of rank 1: gone again" in stream.getvalue()
    assert "the start of the ranks failed; again in 1 s: worker: no group" in stream.getvalue()
    assert "attempt 3 failed; again in 1 s without n2, n5: worker of rank 0 on n4: n2: GPU 4" in stream.getvalue()
    assert follower.outcome == "stopped" and set(follower.left_out) == {"n2", "n5"}
    assert follower.all_causes("for good").startswith("for good; all of them: (1) worker of rank 1 on n2: gone; (2)")
    again = a_follower(directory, view)
    assert len(again.failures) == 4 and again.all_causes("x") == "x", "those of an earlier start are no cause"


def test_ranks_that_never_begin_are_no_attempt(directory: RunDirectory) -> None:
    view, stream = a_view()
    follower = a_follower(directory, view)
    script = [fail_attempt(directory, None, "no room"), fail_attempt(directory, None, "no room")]
    with pytest.raises(RuntimeError):
        train(directory, ScriptedGroup(script, RuntimeError("for good")), follower, view)
    assert stream.getvalue().count("the start of the ranks failed") == 2 and "attempt 0" not in stream.getvalue()


def test_what_a_killed_controller_has_not_taken_in_is_counted_and_not_said_again(directory: RunDirectory) -> None:
    view, stream = a_view()
    for machine in ("n1", "n2"):
        begin_attempt(directory, machine)()
        fail_attempt(directory, 0, "gone")()
    directory.update_state(failures=[{"node": "n1"}])
    follower = a_follower(directory, view)
    assert [failure["node"] for failure in directory.read_state()["failures"]] == ["n1", "n2"]
    train(directory, ScriptedGroup([lambda: None]), follower, view)
    assert (follower.attempts, len(follower.failures), follower.last_failure) == (2, 2, None)
    assert follower.all_causes("x") == "x" and "gone" not in stream.getvalue()
    train(directory, ScriptedGroup([begin_attempt(directory, "n1")]), follower, view)
    assert directory.read_state()["attempts"] == 3
    assert [entry["values"]["attempt"] for entry in read_events(directory.tracking)[0]] == ["3"]


def test_a_stop_ends_a_run_whose_ranks_find_no_room(directory: RunDirectory) -> None:
    """Ray Train asks its policy again and again, and no rank reads the request."""
    view, stream = a_view()
    follower = a_follower(directory, view)
    waits = ScriptedGroup([lambda: None] * 1000)
    scores = train(directory, waits, follower, view, is_stopped=lambda: True, without_ranks_s=0.0)
    assert waits.is_alive() and scores.is_cancelled and follower.outcome == "stopped"
    assert "stopped without ranks" in stream.getvalue()


def test_a_cancelled_run_without_ranks_ends_as_well(directory: RunDirectory) -> None:
    view, _ = a_view()
    lost = [begin_attempt(directory, "n1"), fail_attempt(directory, 0, "gone"), directory.stop_request.touch]
    group = ScriptedGroup([*lost, *[lambda: None] * 1000])
    train(directory, group, a_follower(directory, view), view, without_ranks_s=0.0)
    assert group.is_alive()


def test_a_stop_waits_for_ranks_that_save(directory: RunDirectory) -> None:
    view, _ = a_view()
    follower = a_follower(directory, view)
    script = [begin_attempt(directory, "n1"), *[lambda: None] * 20, end_attempt(directory, "stopped")]
    group = ScriptedGroup(script)
    train(directory, group, follower, view, is_stopped=lambda: follower.has_ranks, without_ranks_s=0.0)
    assert not group.is_alive()


def test_a_stop_waits_for_ranks_that_start_again_after_a_failure(directory: RunDirectory) -> None:
    """They have the newest state, and imports, rendezvous and loading may take minutes."""
    view, stream = a_view()
    lost = [begin_attempt(directory, "n1"), fail_attempt(directory, 0, "gone"), directory.placed.touch]
    slow = [directory.stop_request.touch, *[lambda: None] * 20]
    group = ScriptedGroup([*lost, *slow, begin_attempt(directory, "n1"), end_attempt(directory, "stopped")])
    train(directory, group, a_follower(directory, view), view, without_ranks_s=0.0)
    assert not group.is_alive() and "without ranks" not in stream.getvalue()


def test_a_stop_during_the_first_start_of_ranks_does_not_wait_for_them(directory: RunDirectory) -> None:
    """They could save only what they have loaded."""
    view, stream = a_view()
    group = ScriptedGroup([directory.placed.touch, directory.stop_request.touch, *[lambda: None] * 1000])
    train(directory, group, a_follower(directory, view), view, without_ranks_s=0.0)
    assert group.is_alive() and "stopped without ranks: none have begun to train" in stream.getvalue()


def test_a_stop_is_passed_on_once(directory: RunDirectory) -> None:
    view, stream = a_view()
    asked: list[bool] = []

    def write_down() -> None:
        asked.append(directory.stop_request.exists())

    group = ScriptedGroup([write_down] * 3 + [end_attempt(directory, "stopped")])
    signals = iter([False, True, True, True, True])
    scores = train(directory, group, a_follower(directory, view), view, is_stopped=lambda: next(signals))
    assert asked == [False, False, True]
    assert stream.getvalue().count("stopping:") == 1
    assert scores.is_cancelled


def test_what_ranks_write_while_they_end_is_not_lost(directory: RunDirectory) -> None:
    view, _ = a_view()
    follower = a_follower(directory, view)

    class EndsSilently(ScriptedGroup):
        def is_alive(self) -> bool:
            if not (alive := super().is_alive()):
                end_attempt(directory, "finished")()
            return alive

    train(directory, EndsSilently([begin_attempt(directory, "n1")]), follower, view)
    assert follower.outcome == "finished"
    assert parse_json(directory.state.read_bytes()) == {"attempts": 1}


def test_epochs_are_scored_to_the_end_where_nobody_asks_to_stop(directory: RunDirectory) -> None:
    view, _ = a_view()

    class TwoEpochs(NoScores):
        left = 3

        def poll(self, timeout_s: float = 0.0) -> bool:
            self.left -= 1
            return self.left > 0

    scores = TwoEpochs()
    see_through(
        ScriptedGroup([lambda: None]), scores, follow=lambda: None, is_stopped=lambda: False, can_save=lambda: True,
        stop_request=directory.stop_request, view=view,
    )  # fmt: skip
    assert scores.left == 0


def test_a_resumed_run_shows_the_scores_it_has(directory: RunDirectory) -> None:
    record_scores(directory, 7, {"eval/nmse_db/avg": -1.0})
    record_scores(directory, 9, {"eval/nmse_db/avg": -2.0})
    view, _ = a_view()
    a_follower(directory, view)
    assert (view.progress.scored_step, view.progress.scores) == (9, {"eval/nmse_db/avg": -2.0})
