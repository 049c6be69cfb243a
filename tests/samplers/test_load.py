import numpy as np
import pytest

from channels.errors import UserError
from samplers.catalogue import Catalogue, Source
from samplers.load import rank_load, step_imbalance
from samplers.plan import make_plan
from samplers.schedule import Schedule

SETS = Catalogue([Source("A", 4, 160), Source("B", 8, 190), Source("C", 16, 140)])
RARE = Catalogue([Source("A", 4, 60), Source("B", 8, 90), Source("C", 16, 4)])


def schedule_of(strategy: str, pack: str = "bucket", slices: int = 1, catalogue: Catalogue = SETS) -> Schedule:
    plan = make_plan(catalogue, strategy=strategy, method="optimal", pack=pack, buckets=2, batch=16, partitions=4)
    return Schedule(catalogue, plan, seed=0, partitions=4, epochs=1, slices=slices)


def loads(schedule: Schedule, ranks: int) -> list[int]:
    """Tokens of every rank in every step: padded to the longest of the rank's slice, or packed without fillers."""
    lengths = np.asarray([source.length for source in SETS])
    found = []
    for step in range(schedule.steps(0)):
        for rank in range(ranks):
            slices = schedule.rank_step(0, step, rank, ranks)
            if schedule.plan.packed:
                found.append(int(sum(held.weight @ lengths[held.source] for held in slices)))
            else:
                found.append(int(sum(len(held.source) * lengths[held.source].max() for held in slices)))
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize(("strategy", "pack"), [("bucket", "bucket"), ("packed", "bucket"), ("packed", "global")])
def test_the_load_is_that_of_the_steps(strategy: str, pack: str, slices: int, ranks: int) -> None:
    schedule = schedule_of(strategy, pack, slices)
    seen, stated = loads(schedule, ranks), rank_load(schedule, ranks)
    assert max(seen) <= stated.largest
    assert stated.mean == pytest.approx(np.mean(seen), rel=0.1)


def test_the_most_that_chance_can_deal() -> None:
    """Four of the longest samples exist, the rest of a slice is of the next length."""
    assert rank_load(schedule_of("packed", "global", catalogue=RARE), 1).largest == 4 * 16 + 12 * 8
    assert rank_load(schedule_of("packed", "global", catalogue=RARE), 4).largest == 4 * 16
    assert rank_load(schedule_of("global", catalogue=RARE), 2).largest == 8 * 16


def test_ranks_must_divide_the_partitions() -> None:
    with pytest.raises(UserError, match="3 ranks do not divide the 4 partitions"):
        rank_load(schedule_of("packed"), 3)


@pytest.mark.parametrize(("strategy", "pack"), [("global", "bucket"), ("packed", "global")])
def test_imbalance_of_a_step_is_that_of_its_ranks(strategy: str, pack: str) -> None:
    schedule = schedule_of(strategy, pack, slices=2)
    seen = np.reshape(loads(schedule, 4), (-1, 4))
    for step, tokens in enumerate(seen):
        found = step_imbalance(schedule, schedule.global_step(0, step), 4)
        assert found == pytest.approx(tokens.max() / tokens.mean() - 1)
    assert (seen.max(axis=1) > seen.min(axis=1)).any()
    assert step_imbalance(schedule, schedule.global_step(0, 0), 1) == 0.0
