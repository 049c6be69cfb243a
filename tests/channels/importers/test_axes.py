"""Axes: parsing, guessing, and that any order of an array gives the same samples."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.errors import UserError
from channels.importers.axes import PARTS, Axes, fitting_axes, infer_axes
from tests.channels.importers.layouts import draw

ORDERS = list(itertools.permutations("ntka"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n,t,k,a", ("n", "t", "k", "a")),
        ("N, T, A, K", ("n", "t", "a", "k")),
        ("ntka", ("n", "t", "k", "a")),
        ("n,a,k,re,im", ("n", "a", "k", PARTS)),
        ("n,re,im,t,k", ("n", PARTS, "t", "k")),
        ("n,c,a,k", ("n", PARTS, "a", "k")),
        ("n,rx,tx,subcarriers", ("n", "a", "a", "k")),
        ("n,1,a,k", ("n", "1", "a", "k")),
        ("k", ("k",)),
    ],
)
def test_words(text: str, names: tuple[str, ...]):
    axes = Axes.parse(text)
    assert axes.names == names
    assert Axes.parse(axes.text) == axes


@pytest.mark.parametrize("text", ["", "n", "n,q", "n,n,k", "n,t,t,k", "n,1", "n,re", "n,k,re,im,re,im"])
def test_words_that_are_no_axes(text: str):
    with pytest.raises(UserError, match="--axes"):
        Axes.parse(text)


@given(order=st.sampled_from(ORDERS), parts=st.none() | st.integers(0, 4), seed=st.integers(0, 9))
def test_any_order_gives_the_same_samples(order: tuple[str, ...], parts: int | None, seed: int):
    sizes = {"n": 3, "t": 2, "k": 5, "a": 4}
    channel = draw(*(sizes[name] for name in "ntka"), seed=seed)
    array, names = channel.transpose(["ntka".index(name) for name in order]), list(order)
    if parts is not None:
        array = np.stack([array.real, array.imag], axis=parts)
        names.insert(parts, PARTS)
    axes = Axes(tuple(names))
    axes.check(array.shape, parts is None, "test")
    assert (axes.count(array.shape), axes.scale(array.shape)) == (3, (2, 5, 4))
    np.testing.assert_array_equal(axes.samples(array), channel)


@given(order=st.sampled_from(ORDERS), sizes=st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_fitting_axes_have_the_scale_and_all_orders_that_do_are_found(order: tuple[str, ...], sizes: list[int]):
    shape = tuple(sizes)
    scale = Axes(order).scale(shape)
    found = fitting_axes(shape, scale)
    assert Axes(order) in found and all(one.scale(shape) == scale for one in found)


def test_missing_axes_and_two_of_antennas():
    channel = draw(3, 5)
    np.testing.assert_array_equal(Axes.parse("n,k").samples(channel), channel[:, None, :, None])
    np.testing.assert_array_equal(Axes.parse("t,k").samples(channel), channel[None, :, :, None])
    planar = draw(3, 2, 4, 5)
    np.testing.assert_array_equal(Axes.parse("n,a,a,k").samples(planar)[:, 0, :, 5], planar[:, 1, 1])


@pytest.mark.parametrize(
    ("shape", "is_complex", "receive", "expected"),
    [
        ((6, 24, 32, 8), True, False, "n,t,k,a"),
        ((6, 1, 8, 32), True, True, "n,1,a,k"),
        ((6, 1, 8, 32), True, False, "n,t,k,a"),
        ((6, 8, 32), True, False, "n,a,k"),
        ((6, 32), True, False, "n,k"),
        ((6, 32, 32, 2), False, False, "n,a,k,re,im"),
        ((6, 24, 32, 8, 2), False, False, "n,t,k,a,re,im"),
        ((6, 2, 24, 32, 8), False, False, "n,re,im,t,k,a"),
        ((6, 32, 2), False, False, "n,k,re,im"),
    ],
)
def test_usual_axes(shape: tuple[int, ...], is_complex: bool, receive: bool, expected: str):
    axes = infer_axes(shape, is_complex, receive_axis=receive)
    assert axes and axes.text == expected
    axes.check(shape, is_complex, "test")


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3, 4, 5), ()])
def test_unusual_ones_are_not_guessed(shape: tuple[int, ...]):
    assert infer_axes(shape, True) is None
    assert infer_axes((6, 32, 8), False) is None


@pytest.mark.parametrize(
    ("axes", "shape", "is_complex", "words"),
    [
        ("n,t,k,a", (3, 4, 5), True, "3 axes, not the 4"),
        ("n,k,re,im", (3, 4, 3), False, "length of 3"),
        ("n,1,k", (3, 2, 4), True, "axis 1 .* length of 2"),
        ("n,k,re,im", (3, 4, 2), True, "complex already"),
        ("n,t,k,a", (3, 4, 5, 2), False, "not complex"),
    ],
)
def test_axes_that_an_array_cannot_have(axes: str, shape: tuple[int, ...], is_complex: bool, words: str):
    with pytest.raises(UserError, match=words):
        Axes.parse(axes).check(shape, is_complex, "file")
