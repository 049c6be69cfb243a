"""The users of a DeepMIMO scenario: their splits, their speeds, and the Doppler shifts of their paths."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.importers.formats.deepmimo_scenario import DOPPLER, VELOCITY

LIGHT = 299_792_458.0
"""Speed of light, m/s."""


@dataclass(frozen=True, slots=True)
class Motion:
    """doppler_hz: shift of every path [users, paths]. source: what says so, with the seed of what is drawn."""

    doppler_hz: NDArray[np.float64]
    source: str


def split_users(
    users: NDArray[np.int64], position: NDArray[np.float32], role: str, val_share: float
) -> dict[str, NDArray[np.int64]]:
    """Users of each split. Neighbours have nearly the same channel, so val is one end of the scene's longest side."""
    if role == "zeroshot" or not len(users):
        return {"test": users}
    extent = np.ptp(position[users], axis=0)
    along = users[np.argsort(position[users, int(np.argmax(extent))], kind="stable")]
    train = len(along) - int(val_share * len(along))
    return {"train": along[:train], "val": along[train:]}


def speeds_of(quantities: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Lowest and highest speed of the users in km/h, where the scenario has their velocities."""
    if VELOCITY not in quantities or not len(quantities[VELOCITY]):
        return {}
    # An infinite one is refused with the parameter that it becomes.
    with np.errstate(over="ignore"):
        speed = 3.6 * np.linalg.norm(np.nan_to_num(quantities[VELOCITY].astype(np.float64)), axis=1)
    return {"speed_kmh": [float(speed.min()), float(speed.max())]}


def motion_of(
    quantities: Mapping[str, NDArray[Any]], speed_kmh: tuple[float, float], frequency_hz: float, name: str
) -> Motion | None:
    """By the scenario's Doppler shifts, its velocities, or speeds in headings drawn from a seed of the name."""
    if DOPPLER in quantities:
        return Motion(quantities[DOPPLER].astype(np.float64), DOPPLER)
    if VELOCITY in quantities:
        velocity, source = np.nan_to_num(quantities[VELOCITY].astype(np.float64)), VELOCITY
    elif speed_kmh[1] > 0:
        seed = zlib.crc32(name.encode())
        velocity, source = _drawn(len(quantities["rx_pos"]), speed_kmh, seed), f"random headings, seed {seed}"
    else:
        return None
    return Motion(doppler_of(velocity, quantities["aoa_az"], quantities["aoa_el"], frequency_hz), source)


def _drawn(users: int, speed_kmh: tuple[float, float], seed: int) -> NDArray[np.float64]:
    """Velocities m/s [users, 3] in the plane: speed and heading uniform."""
    random = np.random.default_rng(seed)
    speed, heading = random.uniform(*speed_kmh, users) / 3.6, random.uniform(0, 2 * np.pi, users)
    return np.stack([speed * np.cos(heading), speed * np.sin(heading), 0 * speed], axis=1)


def doppler_of(
    velocity: NDArray[np.float64], azimuth_deg: NDArray[Any], zenith_deg: NDArray[Any], frequency_hz: float
) -> NDArray[np.float64]:
    """Doppler shift in Hz of every path: v . r / wavelength, r the unit vector to where it arrives from.

    velocity: m/s [n, 3]. azimuth_deg, zenith_deg: of arrival [n, paths]. Source: TR 38.901, 7.5-25.
    """
    azimuth, zenith = np.deg2rad(azimuth_deg, dtype=np.float64), np.deg2rad(zenith_deg, dtype=np.float64)
    direction = np.stack([np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)], axis=-1)
    shift: NDArray[np.float64] = np.einsum("npd,nd->np", direction, velocity) * (frequency_hz / LIGHT)
    return shift
