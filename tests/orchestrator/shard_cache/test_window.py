from hypothesis import given
from hypothesis import strategies as st

from orchestrator.shard_cache.window import EpochWindow
from tests.samplers.cases import many_cases

NAMES = "abcdefgh"
SIZES = dict(zip(NAMES, (3, 1, 4, 1, 5, 9, 2, 6), strict=True))
needs = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6), min_size=1, max_size=4)


def size(files: set[str]) -> int:
    return sum(SIZES[file] for file in files)


@many_cases
@given(needs, st.integers(1, 40))
def test_what_is_planned(epochs: list[list[str]], capacity: int) -> None:
    window = EpochWindow((0, 1), SIZES, capacity)
    window.update(0, 5, dict(enumerate(epochs, start=5)))
    planned = window.planned()
    assert len(set(planned)) == len(planned)
    assert size(set(planned)) <= capacity
    needed: set[str] = set()
    for files in epochs:
        if size(needed | set(files)) > capacity:
            break
        needed |= set(files)
    else:
        assert set(planned) == needed
        return
    assert set(planned[: len(needed)]) == needed
    further = set(planned) - needed
    if not needed:
        assert not further, "the first epoch is kept whole or not at all"
    assert further <= set(files), "nothing of an epoch after the first that is not kept whole"
    left = [file for file in dict.fromkeys(files) if file not in planned]
    assert size(set(planned)) + SIZES[left[0]] > capacity or not needed


def test_an_epoch_stays_until_the_last_rank_has_read_it() -> None:
    window = EpochWindow((0, 1), SIZES, 20)
    epochs = {0: ("a", "b"), 1: ("c",)}
    window.update(0, 0, epochs)
    window.update(1, 0, epochs)
    assert window.planned() == ("a", "b", "c")
    window.update(0, 1, {1: ("c",), 2: ("d",)})
    assert window.planned() == ("a", "b", "c", "d")
    window.update(1, 1, {1: ("c",), 2: ("d",)})
    assert window.planned() == ("c", "d")
    window.update(0, 3, {})
    window.update(1, 3, {})
    assert window.planned() == ()


def test_no_epoch_is_settled_before_every_rank_has_said_where_it_is() -> None:
    window = EpochWindow((4, 6), SIZES, 20)
    window.update(4, 1, {1: ("a", "b"), 2: ("c",)})
    assert window.files(1) is None
    window.update(6, 1, {1: ("a", "b")})
    assert window.files(1) == ("a", "b")
    assert window.files(2) == ("c",)
    assert window.files(0) is None, "a finished epoch"
    assert window.files(3) is None, "one that no rank has named"
