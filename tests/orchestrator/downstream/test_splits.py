"""Splits: no position is trained on and tested, whatever the positions; shares hold one another."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.errors import UserError
from channels.store import ChannelStore
from orchestrator.downstream.pool import Pool, PooledSet
from orchestrator.downstream.spec import SplitSection
from orchestrator.downstream.splits import make_split, share_of
from tests.orchestrator.downstream.scenes import pool_of, spec_of, users_of, write_set

place = st.tuples(st.integers(-3, 3), st.integers(-3, 3))
section = SplitSection(regions=8)


def pool_at(places: dict[str, tuple[str, list[tuple[int, int]]]]) -> Pool:
    """A pool without channels: by set its scenario and the places of its users, in centimetres."""
    sets: list[PooledSet] = []
    first = 0
    for name, (scenario, users) in places.items():
        labels = {"pos": np.asarray(users, np.float32) / 100}
        sets.append(
            PooledSet(spec_of(name, scenario), (("train", np.arange(len(users))),), first, labels, np.zeros(len(users)))
        )
        first += len(users)
    return Pool(ChannelStore(Path("none"), {}), tuple(sets))


def stands(pool: Pool, rows: np.ndarray) -> set[tuple[Any, ...]]:
    """Scenario and place of some rows."""
    keys = [
        (one.spec.scenario, *np.rint(1000 * place).astype(int).tolist())
        for one in pool.sets
        for place in one.labels["pos"]
    ]
    return {keys[row] for row in rows}


@settings(max_examples=60)
@given(
    st.lists(place, min_size=2, max_size=30), st.lists(place, min_size=2, max_size=30),
    st.sampled_from(["region", "random"]), st.booleans(), st.integers(0, 5), st.floats(0.05, 0.95),
)  # fmt: skip
def test_no_position_is_on_both_sides(
    first: list[tuple[int, int]], second: list[tuple[int, int]], by: Any, one_scene: bool, seed: int, share: float
) -> None:
    """Two sets of one scene are two transmitters that see the same users."""
    pool = pool_at({"a": ("scene", first), "b": ("scene" if one_scene else "other", second)})
    chosen = SplitSection(by=by, regions=8, test_share=share)
    try:
        split = make_split(pool, chosen, seed)
    except UserError as error:
        # Too few places for two parts.
        assert len({*first}) < 2 or len({*second}) < 2 or "part is empty" in str(error)
        return
    assert sorted([*split.train, *split.test]) == list(range(pool.count))
    assert not stands(pool, split.train) & stands(pool, split.test)


def test_regions_hold_together_and_seeds_choose_others(scenes: Path) -> None:
    pool = pool_of(scenes)
    split = make_split(pool, section, 0)
    assert 0.2 * 120 <= len(split.test) <= 0.2 * 120 + 2 * 8
    again, other = make_split(pool, section, 0), make_split(pool, section, 1)
    assert np.array_equal(split.test, again.test) and not np.array_equal(split.test, other.test)
    # A tested user's nearest neighbour is mostly tested too, other than at random.
    position = np.concatenate([one.labels["pos"] + [1000 * number, 0, 0] for number, one in enumerate(pool.sets)])
    distance = np.linalg.norm(position[:, None] - position, axis=2) + 1e9 * np.eye(len(position))
    together = np.isin(distance.argmin(axis=1)[split.test], split.test).mean()
    assert together > 0.5


def test_by_scenario_and_as_stored(scenes: Path) -> None:
    pool = pool_of(scenes)
    split = make_split(pool, SplitSection(by="scenario", test=("B",)), 0)
    assert split.test.tolist() == list(range(60, 120))
    stored = make_split(pool, SplitSection(by="stored"), 3)
    assert stored.test.tolist() == [*range(50, 60), *range(110, 120)]


def test_validation_samples_beside_a_test_are_on_neither_side(tmp_path: Path) -> None:
    write_set(tmp_path / "store", spec_of("A"), *users_of(20, 0), train=12, val=5, test=3)
    split = make_split(pool_of(tmp_path / "store"), SplitSection(by="stored"), 0)
    assert (split.train.tolist(), split.test.tolist()) == ([*range(12)], [*range(17, 20)])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"by": "scenario", "test": ("C",)}, "no set or scenario 'C'"),
        ({"by": "scenario", "test": ("A", "B")}, "the training part is empty"),
        ({"by": "region", "position": ("where",)}, "no label where"),
        ({"by": "region", "position": ("los",)}, "is no finite position"),
    ],
)
def test_what_cannot_be_split_is_one_line(scenes: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        make_split(pool_of(scenes), SplitSection.model_validate(fields), 0)
    assert "\n" not in str(caught.value)


def test_a_store_without_the_split_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "store", spec_of("A"), *users_of(6, 0))
    with pytest.raises(UserError, match="the set has train, not train and one of test and val"):
        make_split(pool_of(tmp_path / "store"), SplitSection(by="stored"), 0)


def test_users_seen_by_two_transmitters_leak_and_are_refused() -> None:
    users = [(number, 0) for number in range(6)]
    pool = pool_at({"a": ("scene", users), "b": ("scene", users)})
    with pytest.raises(UserError, match="6 test samples stand where training samples stand, the first one in set b"):
        make_split(pool, SplitSection(by="scenario", test=("b",)), 0)


def test_a_larger_share_holds_a_smaller_one() -> None:
    train = np.arange(10, 210)
    shares = [share_of(train, percent, 4) for percent in (1, 20, 60, 100)]
    assert [len(share) for share in shares] == [2, 40, 120, 200]
    assert all(set(small) < set(large) for small, large in itertools.pairwise(shares))
    assert not np.array_equal(share_of(train, 20, 4), share_of(train, 20, 5))


def test_a_share_holds_every_class_in_proportion() -> None:
    classes = np.repeat([0, 1, 2], [150, 48, 2])
    for seed in range(5):
        shares = [share_of(np.arange(200), percent, seed, classes) for percent in (10, 20, 50, 100)]
        counts = [np.bincount(classes[share], minlength=3) for share in shares]
        for percent, count in zip((10, 20, 50, 100), counts, strict=True):
            assert np.abs(count - np.asarray([150, 48, 2]) * percent / 100).max() <= 1
        assert all(set(small) < set(large) for small, large in itertools.pairwise(shares))
