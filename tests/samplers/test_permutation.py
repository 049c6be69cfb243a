from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplers.permutation import TINY, child_keys, permute, root_key
from tests.samplers.cases import many_cases

KEYS = st.integers(0, 2**64 - 1)
UNLIKELY = 5.0
"""Standard deviations of a chi-square that no good generator reaches; seeds are fixed, so a test passes or never."""


def chi_square_deviation(counts: np.ndarray) -> float:
    """How many standard deviations the chi-square of counts lies above what even counts give."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@many_cases
@given(st.integers(1, 3000), KEYS)
def test_images_are_a_bijection(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@many_cases
@given(st.lists(st.tuples(st.integers(1, 10**12), KEYS, st.floats(0, 1, exclude_max=True)), min_size=1, max_size=30))
def test_sizes_and_keys_may_differ_from_element_to_element(rows: list[tuple[int, int, float]]) -> None:
    sizes = np.asarray([size for size, _, _ in rows])
    keys = np.asarray([key for _, key, _ in rows], np.uint64)
    positions = np.asarray([int(size * share) for size, _, share in rows])
    together = permute(positions, sizes, keys)
    alone = [permute(*row)[0] for row in zip(positions, sizes, keys, strict=True)]
    assert together.tolist() == alone
    assert (together < sizes).all()
    assert (together >= 0).all()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_every_order_of_a_few_elements_is_equally_likely(size: int) -> None:
    keys = child_keys(root_key("orders", size), np.arange(100 * factorial(size)))
    images = permute(np.arange(size), size, keys[:, None])
    orders, counts = np.unique(images, axis=0, return_counts=True)
    assert len(orders) == factorial(size)
    assert chi_square_deviation(counts) < UNLIKELY


@pytest.mark.parametrize("size", [7, TINY, TINY + 1, 18, 25, 40, 100, 101])
def test_images_and_distances_are_uniform(size: int) -> None:
    keys = child_keys(root_key("pairs", size), np.arange(1000 * size))
    first, second, last = (permute(place, size, keys) for place in (0, 1, size - 1))
    for images in (first, second, last):
        assert chi_square_deviation(np.bincount(images, minlength=size)) < UNLIKELY
    for distance in ((second - first) % size, (last - first) % size):
        assert chi_square_deviation(np.bincount(distance, minlength=size)[1:]) < UNLIKELY


def test_neighbours_are_scattered_in_a_large_permutation() -> None:
    size = 10**9
    images = permute(np.arange(100_000), size, root_key("large"))
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    assert chi_square_deviation(np.bincount(images * 100 // size, minlength=100)) < UNLIKELY


def test_two_keys_give_unrelated_orders() -> None:
    first, second = (permute(np.arange(10_000), 10_000, key) for key in child_keys(1, [0, 1]))
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_keys_are_the_same_for_ever() -> None:
    assert root_key("wavetrain schedule", 0) == 18085611579247465608
    assert permute(np.arange(6), 6, 1).tolist() == [2, 3, 5, 1, 0, 4]
    assert permute(np.arange(3), 10**9, 1).tolist() == [975675288, 40151296, 151769321]


def test_keys_tell_their_parts_apart() -> None:
    keys = {root_key("a", 1), root_key("a", "1"), root_key("a1"), root_key(1, "a"), root_key("a", 2)}
    assert len(keys) == 5


def test_a_position_outside_is_a_defect() -> None:
    with pytest.raises(AssertionError):
        permute(5, 5, 0)
