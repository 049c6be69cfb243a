import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from channels.errors import UserError
from samplers.batches import Batch, ScheduledBatches
from samplers.catalogue import Catalogue, Source
from samplers.plan import make_plan
from samplers.schedule import Schedule, Slice
from tests.samplers.cases import many_cases, pooled_sources, schedules, worlds

SETS = Catalogue([Source("A", 4, 40), Source("B", 8, 60), Source("C", 6, 50)])


class Cursors(Dataset):
    """Gives back the cursor of a batch."""

    def __getitem__(self, batch: Batch) -> tuple[int, int]:
        return batch[:2]


def schedule_of(catalogue: Catalogue = SETS, seed: int = 0, epochs: int = 3, **choices: object) -> Schedule:
    plan = make_plan(catalogue, **{"method": "equal", "buckets": 2, "batch": 12, "partitions": 12, **choices})
    return Schedule(catalogue, plan, seed, 12, epochs)


def sorted_samples(slices: Sequence[Slice]) -> np.ndarray:
    """(source, index, weight) of all samples of some slices, sorted."""
    rows = np.concatenate([np.stack([one.source, one.index, one.weight], axis=1) for one in slices])
    return rows[np.lexsort(rows.T)]


@many_cases
@given(schedules(), st.data())
def test_resume_on_any_world_continues_with_exactly_what_is_left(schedule: Schedule, data: st.DataObject) -> None:
    before, after = (data.draw(st.sampled_from(worlds(schedule))) for _ in range(2))
    done = data.draw(st.integers(0, schedule.total_steps))
    expected = list(ScheduledBatches(schedule, 0, 1))
    first = ScheduledBatches(schedule, data.draw(st.integers(0, before - 1)), before)
    for _, (epoch, step, _) in zip(range(done), first, strict=False):
        first.consumed(epoch, step)
    second = [ScheduledBatches(schedule, rank, after) for rank in range(after)]
    for batches in second:
        batches.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert len(batches) == schedule.total_steps - done
    steps = list(zip(*second, strict=True))
    assert [ranks[0][:2] for ranks in steps] == [(epoch, step) for epoch, step, _ in expected[done:]]
    for ranks, (_, _, whole) in zip(steps, expected[done:], strict=True):
        held = [one for _, _, slices in ranks for one in slices]
        assert np.array_equal(sorted_samples(held), sorted_samples(whole))


def test_the_cursor_follows_what_was_consumed_not_what_was_prefetched() -> None:
    batches = ScheduledBatches(schedule_of(), 1, 4)
    loader = DataLoader(Cursors(), batch_size=None, sampler=batches, num_workers=2, prefetch_factor=4)
    for count, (epoch, step) in enumerate(loader):
        if count == 3:
            break
        batches.consumed(epoch, step)
    assert batches.cursor == (0, 3)
    assert batches.state_dict()["step"] == 3
    assert next(iter(batches))[:2] == (0, 3)


def test_steps_are_consumed_in_order() -> None:
    batches = ScheduledBatches(schedule_of(), 0, 1)
    with pytest.raises(AssertionError, match="cursor at"):
        batches.consumed(0, 1)


def test_a_finished_run_has_nothing_left() -> None:
    schedule = schedule_of(epochs=1)
    batches = ScheduledBatches(schedule, 0, 1)
    for epoch, step, _ in batches:
        batches.consumed(epoch, step)
    again = ScheduledBatches(schedule, 0, 1)
    again.load_state_dict(batches.state_dict())
    assert again.cursor == (1, 0)
    assert len(again) == 0
    assert list(again) == []


def test_more_epochs_may_follow_except_for_sequential() -> None:
    state = ScheduledBatches(schedule_of(epochs=1), 0, 1).state_dict()
    longer = ScheduledBatches(schedule_of(epochs=5), 0, 1)
    longer.load_state_dict(state)
    assert longer.cursor == (0, 0)
    state = ScheduledBatches(schedule_of(epochs=1, strategy="sequential"), 0, 1).state_dict()
    with pytest.raises(UserError, match="epochs was 1, is 5"):
        ScheduledBatches(schedule_of(epochs=5, strategy="sequential"), 0, 1).load_state_dict(state)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (schedule_of(Catalogue([Source("A", 4, 41), *SETS.sources[1:]])), "set A: count was 40, is 41"),
        (schedule_of(Catalogue(SETS.sources[:2])), "set C is missing"),
        (schedule_of(buckets=3), "there were 2 buckets, now 3"),
        (schedule_of(batch=24), "bucket 0: batch_size was 12, is 24"),
        (schedule_of(strategy="global"), "strategy was bucket, is global"),
        (schedule_of(seed=7), "seed was 0, is 7"),
    ],
)
def test_the_state_of_another_schedule_is_refused(other: Schedule, words: str) -> None:
    state = ScheduledBatches(schedule_of(), 0, 1).state_dict()
    batches = ScheduledBatches(other, 0, 1)
    with pytest.raises(UserError, match=f"sampler state: belongs to another schedule: {words}"):
        batches.load_state_dict(state)
    assert batches.cursor == (0, 0)


def test_a_state_from_before_the_last_samples_of_a_pool_moved_is_refused() -> None:
    uneven = schedule_of(Catalogue(pooled_sources("P", {0: 4, 1: 8, 2: 6}, 61)), buckets=1)
    state = ScheduledBatches(uneven, 0, 1).state_dict()
    del state["settings"]["pools"]
    with pytest.raises(UserError, match="belongs to another schedule: pools was None"):
        ScheduledBatches(uneven, 0, 1).load_state_dict(state)
    even = schedule_of(Catalogue(pooled_sources("P", {0: 4, 1: 8, 2: 6}, 60)), buckets=1)
    assert "pools" not in even.settings()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 10**6}, "step 1000000 is beyond the"),
        ({"epoch": 3, "step": 1}, "epoch 3 of 3 epochs"),
        ({"version": 9}, "version 9, expected 1"),
    ],
)
def test_states_that_cannot_be_continued(change: dict[str, int], words: str) -> None:
    batches = ScheduledBatches(schedule_of(), 0, 1)
    with pytest.raises(UserError, match=words):
        batches.load_state_dict({**batches.state_dict(), **change})


def test_a_world_that_does_not_divide_the_partitions_is_refused() -> None:
    with pytest.raises(UserError, match="5 ranks do not divide the 12 partitions; use 4 or 6"):
        ScheduledBatches(schedule_of(), 0, 5)
