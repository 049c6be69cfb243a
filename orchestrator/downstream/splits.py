"""Training and test samples that share no position, and the part of the training samples whose labels are shown."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from orchestrator.downstream.pool import Pool, PooledSet
from orchestrator.downstream.spec import SplitSection

Rows = NDArray[np.int64]
MILLIMETRES = 1000
"""Of a metre."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of the pool, ascending."""

    train: Rows
    test: Rows


def make_split(pool: Pool, section: SplitSection, seed: int) -> Split:
    """The split of a seed; by scenario and as stored it is the same for all.

    Raises:
        UserError: positions are missing or no numbers, a scenario or split is not there, a part is empty, or a position
            is on both sides.
    """
    make = {"region": _by_region, "random": _at_random, "scenario": _by_scenario, "stored": _as_stored}
    tested = make[section.by](pool, section, seed)
    # Validation samples beside a test are on neither side.
    trained = _stored_in(pool, {one.name: "train" for one in pool.sets}) if section.by == "stored" else ~tested
    split = Split(np.flatnonzero(trained), np.flatnonzero(tested))
    if not len(split.train) or not len(split.test):
        empty = "test" if len(split.train) else "training"
        mend = "take more samples, fewer regions, another test_share or another split"
        raise UserError(f"the {empty} part is empty ({pool.count} samples)", where=f"split.by {section.by}", mend=mend)
    check_leaks(pool, section, split)
    return split


def share_of(train: Rows, percent: int, seed: int, classes: Rows | None = None) -> Rows:
    """The rows whose labels are shown, ascending: at least one, and among those of any larger share.

    classes: of all rows of the pool; the share then holds each class about as often as the training samples do.
    """
    order = np.random.default_rng([seed, 1]).permutation(train)
    if classes is not None:
        place = np.empty(len(order))
        for label in np.unique(classes[order]):
            mine = np.flatnonzero(classes[order] == label)
            place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        order = order[np.argsort(place, kind="stable")]
    return np.sort(order[: max(1, round(len(order) * percent / 100))])


def check_leaks(pool: Pool, section: SplitSection, split: Split) -> None:
    """Raises UserError where a position of a scenario is trained on and tested; sets without positions pass."""
    users, known = _users(pool, section)
    trained = set(users[split.train][known[split.train]].tolist())
    leaked = [row for row in split.test[known[split.test]].tolist() if int(users[row]) in trained]
    if leaked:
        one = next(one for one in pool.sets if leaked[0] < one.first + one.count)
        what = f"{len(leaked)} test samples stand where training samples stand, the first one in set {one.name}"
        mend = "split by region, or leave out sets that see the same users from another transmitter"
        raise UserError(what, where=f"split.by {section.by}", mend=mend)


def _by_region(pool: Pool, section: SplitSection, seed: int) -> NDArray[np.bool_]:
    """Whole regions of every scenario, until enough users are tested; a set is seen with the others of its scenario."""
    tested = np.zeros(pool.count, np.bool_)
    random = np.random.default_rng([seed, 0])
    for scenario, sets in _scenarios(pool).items():
        rows = np.concatenate([one.rows for one in sets])
        position = np.concatenate([_position(one, section) for one in sets])
        regions = _regions(position, section.regions)
        if len(regions) < 2:
            what = "all users stand at one position"
            raise UserError(what, where=f"split.by region, scenario {scenario}", mend="split by scenario or as stored")
        wanted = section.test_share * len(rows)
        count = 0
        # One region is left to train on, however large the test share is.
        for region in random.permutation(len(regions))[:-1]:
            if count >= wanted:
                break
            tested[rows[regions[region]]] = True
            count += len(regions[region])
    return tested


def _regions(position: Rows, most: int) -> list[Rows]:
    """Parts of about equal numbers of users: the largest one is halved across its longest side, again and again."""
    parts: list[Rows] = [np.arange(len(position))]
    while len(parts) < most:
        parts.sort(key=len)
        halves = _halve(position, parts[-1])
        if halves is None:
            break
        parts = [*parts[:-1], *halves]
    return sorted(parts, key=lambda part: int(part.min()))


def _halve(position: Rows, rows: Rows) -> tuple[Rows, Rows] | None:
    """Two parts that share no position; None where there is one position only."""
    extent = np.ptp(position[rows], axis=0)
    axis = int(np.argmax(extent))
    if not extent[axis]:
        return None
    along = position[rows, axis]
    middle = np.median(along)
    low = along < middle if (along < middle).any() else along <= middle
    return rows[low], rows[~low]


def _at_random(pool: Pool, section: SplitSection, seed: int) -> NDArray[np.bool_]:
    """Users at random, each with all of its samples; where positions are not known, samples."""
    users, _ = _users(pool, section)
    order = np.random.default_rng([seed, 0]).permutation(np.unique(users))
    chosen = order[: max(1, round(section.test_share * len(order)))]
    return np.isin(users, chosen)


def _by_scenario(pool: Pool, section: SplitSection, seed: int) -> NDArray[np.bool_]:
    known = {name for one in pool.sets for name in (one.name, one.spec.scenario)}
    missing = [name for name in section.test if name not in known]
    if missing:
        mend = f"it has {', '.join(sorted(known))}"
        raise UserError(f"no set or scenario {missing[0]!r}", where="split.test", mend=mend)
    tested = np.zeros(pool.count, np.bool_)
    for one in pool.sets:
        tested[one.rows] = one.name in section.test or one.spec.scenario in section.test
    return tested


def _as_stored(pool: Pool, section: SplitSection, seed: int) -> NDArray[np.bool_]:
    held_of: dict[str, str] = {}
    for one in pool.sets:
        names = [name for name, _ in one.splits]
        held = next((name for name in ("test", "val") if name in names), None)
        if "train" not in names or held is None:
            what = f"the set has {', '.join(names)}, not train and one of test and val"
            mend = "split by region, scenario or at random, or import it with --val-share"
            raise UserError(what, where=f"split.by stored, set {one.name}", mend=mend)
        held_of[one.name] = held
    return _stored_in(pool, held_of)


def _stored_in(pool: Pool, names: Mapping[str, str]) -> NDArray[np.bool_]:
    """Bool [N]: samples that the store has in a split, which is named by set."""
    found = np.zeros(pool.count, np.bool_)
    for one in pool.sets:
        start = one.first
        for name, index in one.splits:
            found[start : start + len(index)] = name == names[one.name]
            start += len(index)
    return found


def _scenarios(pool: Pool) -> dict[str, list[PooledSet]]:
    """Sets by scenario: those of one share their users' coordinates."""
    found: dict[str, list[PooledSet]] = defaultdict(list)
    for one in pool.sets:
        found[one.spec.scenario].append(one)
    return found


def _position(one: PooledSet, section: SplitSection) -> Rows:
    """Where the samples of a set stand, int64 [n, 3] in millimetres: users nearer than that are one."""
    found = one.label(section.position)
    where = f"split.by {section.by}, set {one.name}"
    if found is None:
        what = f"no label {' or '.join(section.position)}, so its regions are not known"
        mend = f"it has {', '.join(sorted(one.labels)) or 'no label'}; split by scenario, at random or as stored"
        raise UserError(what, where=where, mend=mend)
    name, values = found
    fits = values.ndim == 2 and values.shape[1] in (2, 3) and values.dtype.kind in "fiu"
    if not fits or not np.isfinite(values).all():
        what = f"label {name!r} of shape {values.shape} and type {values.dtype} is no finite position of a sample"
        raise UserError(what, where=where, mend="correct the label, or name another one with split.position")
    grid: Rows = np.rint(values.astype(np.float64) * MILLIMETRES).astype(np.int64)
    return np.pad(grid, ((0, 0), (0, 3 - grid.shape[1])))


def _users(pool: Pool, section: SplitSection) -> tuple[Rows, NDArray[np.bool_]]:
    """A number for every sample, the same for those of one scenario and position; and whether its position is known."""
    users, known = np.empty(pool.count, np.int64), np.zeros(pool.count, np.bool_)
    numbers: dict[tuple[object, ...], int] = {}
    for one in pool.sets:
        known[one.rows] = one.label(section.position) is not None
        keys: list[tuple[object, ...]] = [(one.name, row) for row in range(one.count)]
        if known[one.first]:
            keys = [tuple(place) for place in _position(one, section).tolist()]
        for row, key in zip(one.rows, keys, strict=True):
            users[row] = numbers.setdefault((one.spec.scenario, *key), len(numbers))
    return users, known
