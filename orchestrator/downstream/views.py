"""What an encoder is shown of a sample: its power, and the entries that a task gives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channels.signal import sample_power
from models.interface import Shape
from orchestrator.downstream.task import Given, Normalisation, Task


@dataclass(frozen=True, slots=True)
class View:
    """keeps_gain: one factor for all samples of a set instead of unit power. given: None where all is shown."""

    keeps_gain: bool = False
    given: Given | None = None

    @property
    def key(self) -> str:
        """In names of files."""
        shown = "" if self.given is None else f"-k{self.given.subcarriers}a{self.given.antennas}"
        return ("set" if self.keeps_gain else "unit") + shown


def view_of(task: Task, normalisation: Normalisation | None) -> View:
    """The view of a task; normalisation: in place of the task's own."""
    return View((normalisation or task.normalisation) == "set", task.given)


def given_entries(shape: Shape, given: Given | None) -> NDArray[np.bool_]:
    """Bool [T, K, A]: which entries are shown."""
    shown = np.zeros(shape, np.bool_)
    step = given or Given()
    shown[:, :: step.subcarriers, :: step.antennas] = True
    return shown


def show(
    channels: NDArray[np.complex64], view: View, excess_db: NDArray[np.float64]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Channels as the encoder gets them, and whole channels on the same scale: complex64 [n, T, K, A] each.

    The power of a sample is that of the entries shown. excess_db: its gain above the mean of its set, float64 [n].
    """
    shown = given_entries((channels.shape[1], channels.shape[2], channels.shape[3]), view.given)
    # A sample may have power where nothing is shown.
    share = sample_power(np.where(shown, channels, 0)) * (shown.size / shown.sum())
    factor = 1 / np.sqrt(np.where(share > 0, share, sample_power(channels)))
    if view.keeps_gain:
        factor = factor * 10 ** (excess_db / 20)
    whole = channels * factor.astype(np.float32)[:, None, None, None]
    return np.where(shown, whole, np.complex64(0)), whole
