"""Which axis of an array is what, and how an array of any order becomes samples [n, T, K, A]."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError

PARTS = "re/im"
_WORDS = {
    "n": ("n", "sample", "samples", "batch", "b", "user", "users"),
    "t": ("t", "time", "slot", "slots"),
    "k": ("k", "f", "freq", "frequency", "subcarrier", "subcarriers", "sc"),
    "a": ("a", "ant", "antenna", "antennas", "tx", "rx"),
    "1": ("1", "_", "-", "x"),
    PARTS: (PARTS, "reim", "ri", "iq", "c", "complex", "2"),
}
_AXIS = {word: axis for axis, words in _WORDS.items() for word in words}
_HELP = "n samples, t slots, k subcarriers, a antennas (twice where they have two axes), re,im for parts, 1 for nothing"


@dataclass(frozen=True, slots=True)
class Axes:
    """The meaning of each axis of an array: ``n``, ``t``, ``k``, ``a``, ``1`` or ``re/im``; ``a`` may stand twice."""

    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, where: str = "--axes") -> "Axes":
        """Axes in words, such as ``n,t,k,a`` or ``n,a,k,re,im``. Raises UserError for any other word."""
        words = text.lower().replace(" ", "")
        words = words.replace("re,im", PARTS).replace("real,imag", PARTS)
        parts = words.split(",") if "," in words else list(words) if words != PARTS else [words]
        unknown = [word for word in parts if word not in _AXIS]
        if unknown:
            raise UserError(f"{unknown[0]!r} in {text!r} is no axis", where=where, mend=f"there are: {_HELP}")
        names = tuple(_AXIS[word] for word in parts)
        twice = [name for name in ("n", "t", "k", PARTS) if names.count(name) > 1]
        if twice:
            raise UserError(f"{twice[0]!r} stands twice in {text!r}", where=where, mend=f"there are: {_HELP}")
        if not set(names) & {"t", "k", "a"}:
            raise UserError(f"{text!r} has no slots, subcarriers or antennas", where=where, mend=f"there are: {_HELP}")
        return cls(names)

    @property
    def text(self) -> str:
        """As ``parse`` takes it."""
        return ",".join("re,im" if name == PARTS else name for name in self.names)

    def of_matlab(self, shape: tuple[int, ...]) -> "Axes":
        """The axes of an array from whose end MATLAB took axes of length one."""
        return Axes(self.names[: len(shape)]) if len(shape) < len(self.names) else self

    @property
    def sample_axis(self) -> int | None:
        """Index of the axis of samples; None where the array is one sample."""
        return self.names.index("n") if "n" in self.names else None

    def check(self, shape: tuple[int, ...], is_complex: bool, where: str) -> None:
        """Raises UserError where an array of this shape cannot have these axes."""
        if len(shape) != len(self.names):
            what = f"of shape {shape}, which has {len(shape)} axes, not the {len(self.names)} of {self.text}"
            raise UserError(what, where=where, mend="name every axis of the array with --axes")
        for name, size in zip(self.names, shape, strict=True):
            if (name == PARTS and size != 2) or (name == "1" and size != 1):
                what = f"of shape {shape}: the axis {name} of {self.text} has a length of {size}"
                raise UserError(what, where=where, mend="name the axes in the order of the array with --axes")
        if is_complex and PARTS in self.names:
            raise UserError("complex already, so it has no axis re,im", where=where, mend="leave re,im out of --axes")
        if not is_complex and PARTS not in self.names:
            mend = "name the axis of its real and imaginary parts with --axes, for example n,t,k,a,re,im"
            raise UserError(f"of real numbers of shape {shape}, not complex", where=where, mend=mend)

    def scale(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(T, K, A) of an array of this shape; an axis that is not there has length 1."""
        size = dict.fromkeys("tka", 1)
        for name, length in zip(self.names, shape, strict=True):
            if name in size:
                size[name] *= length
        return size["t"], size["k"], size["a"]

    def count(self, shape: tuple[int, ...]) -> int:
        """Samples of an array of this shape."""
        return 1 if self.sample_axis is None else shape[self.sample_axis]

    def samples(self, values: NDArray[Any]) -> NDArray[np.complex64]:
        """Complex64 [n, T, K, A] of a piece of the array, with all its axes."""
        if PARTS in self.names:
            at = self.names.index(PARTS)
            parts = np.moveaxis(values, at, 0)
            joined = np.empty(parts.shape[1:], np.complex64)
            joined.real, joined.imag = parts[0], parts[1]
            return Axes(self.names[:at] + self.names[at + 1 :]).samples(joined)
        order = [index for wanted in "ntka1" for index, name in enumerate(self.names) if name == wanted]
        shape = (self.count(values.shape), *self.scale(values.shape))
        return np.ascontiguousarray(values.transpose(order).reshape(shape), np.complex64)


def infer_axes(shape: tuple[int, ...], is_complex: bool, *, receive_axis: bool = False) -> Axes | None:
    """The usual axes of an array of this shape, None where there are none.

    Two: samples and subcarriers; three: samples, antennas, subcarriers (DeepMIMO, LWM); four: (n, t, k, a). Parts are
    the last axis, or the second, where it has length two. receive_axis: with it, (n, 1, a, k) where the second axis has
    length one, as DeepMIMO's one receive antenna.
    """
    parts = None if is_complex else _parts_axis(shape)
    if not is_complex and parts is None:
        return None
    rest = [length for index, length in enumerate(shape) if index != parts]
    usual = {2: ("n", "k"), 3: ("n", "a", "k"), 4: ("n", "t", "k", "a")}.get(len(rest))
    if usual is None:
        return None
    names = ["n", "1", "a", "k"] if receive_axis and len(rest) == 4 and rest[1] == 1 else list(usual)
    if parts is not None:
        names.insert(parts, PARTS)
    return Axes(tuple(names))


def _parts_axis(shape: tuple[int, ...]) -> int | None:
    if len(shape) >= 3 and shape[-1] == 2:
        return len(shape) - 1
    return 1 if len(shape) >= 4 and shape[1] == 2 else None


def fitting_axes(shape: tuple[int, ...], scale: tuple[int, int, int]) -> list[Axes]:
    """All orders of n, t, k, a (and re/im, where there are five axes) in which an array has this (T, K, A)."""
    names = ("n", "t", "k", "a", PARTS) if len(shape) == 5 else ("n", "t", "k", "a")
    if len(shape) != len(names):
        return []
    wanted = dict(zip("tka", scale, strict=True)) | {PARTS: 2}
    found = []
    for order in itertools.permutations(names):
        if all(wanted.get(name, length) == length for name, length in zip(order, shape, strict=True)):
            found.append(Axes(order))
    return found


def mismatch(
    shape: tuple[int, ...], axes: Axes, scale: tuple[int, int, int], whose: str, where: str, command: str
) -> UserError:
    """The one line for an array whose (T, K, A) is not the one of ``whose`` parameters, with a command to try next."""
    found = axes.scale(shape)
    what = f"as {axes.text} the shape {shape} has (T, K, A) = {found}, but {whose} says {scale}"
    fitting = fitting_axes(shape, scale)
    if fitting:
        which = " or ".join(one.text for one in fitting[:3])
        mend = f"{which} would fit: try '{command} --axes {fitting[0].text}'"
    else:
        mend = "no order of its axes fits: mend the parameters, or give them with --spec FILE"
    return UserError(what, where=where, mend=mend)
