"""Schedules, worlds and cursors that are refused, with what would do."""

import pytest

from channels.errors import UserError
from samplers.plan import make_plan
from samplers.schedule import Schedule
from tests.samplers.cases import example, published


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"partitions": 5}, "bucket 0: batch of 12 is no multiple of the 5 partitions"),
        ({"partitions": 0}, "partitions is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"slices": 0}, "slices is 0"),
        ({"mix": "all"}, "mix: unknown mix 'all'; use one of none, step"),
        ({"tails": "drop"}, "tails: unknown tails 'drop'; use one of fill, mixed"),
    ],
)
def test_choices_that_do_not_fit(choices: dict[str, object], words: str) -> None:
    valid: dict[str, object] = {"seed": 0, "partitions": 4, "epochs": 2}
    plan = make_plan(published(8, 100), batch=12, partitions=4, method="equal")
    with pytest.raises(UserError, match=words):
        Schedule(published(8, 100), plan, **{**valid, **choices})  # type: ignore[arg-type]


def test_the_plan_of_another_catalogue() -> None:
    plan = make_plan(published(8, 100), batch=12, method="equal")
    with pytest.raises(UserError, match="plan: holds other samples than the catalogue"):
        Schedule(published(8, 101), plan, 0, 1, 1)


def test_mixed_tails_need_a_strategy_that_mixes() -> None:
    plan = make_plan(published(8, 100), batch=12, strategy="alternating")
    with pytest.raises(UserError, match="strategy alternating keeps sets apart"):
        Schedule(published(8, 100), plan, 0, 1, 1, tails="mixed")


@pytest.mark.parametrize(("world", "nearest"), [(5, "4 or 6"), (9, "6 or 12"), (13, "use 12"), (0, "use 1")])
def test_a_world_that_does_not_divide_the_partitions(world: int, nearest: str) -> None:
    catalogue = published(8, 100)
    schedule = Schedule(catalogue, make_plan(catalogue, batch=12, partitions=12), 0, 12, 1)
    with pytest.raises(
        UserError, match=f"{world} ranks do not divide the 12 partitions; use {nearest.removeprefix('use ')}"
    ):
        schedule.rank_step(0, 0, 0, world)


@pytest.mark.parametrize(
    ("epoch", "step", "words"),
    [(0, 10**6, "step 1000000 is beyond"), (3, 0, "epoch 3 of 3"), (0, -1, "step -1"), (-1, 0, "epoch -1")],
)
def test_cursors_outside_the_run(epoch: int, step: int, words: str) -> None:
    with pytest.raises(UserError, match=f"cursor: {words}"):
        example("bucket").global_step(epoch, step)
