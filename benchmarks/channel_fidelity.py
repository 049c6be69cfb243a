"""Channels made here beside channels of the same specifications that another generator made: statistics of each set.

    wavetrain channels import FOLDER --store data/quadriga
    python benchmarks/channel_fidelity.py data/quadriga [--samples 128] [--made 256] [--seed 0]

Every set of the store is made again from its specification and measured: the error of repeating the last known slot or
subcarrier over the second half of the axis (mean NMSE, dB), correlation between slots and between subcarriers a
quarter of the axis apart, root-mean-square delay spread, K factor, and the spread of power over the samples. An
imported set has few samples (32 or 100), so the standard error of each difference stands beside it.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from parts.record import record
from rich.console import Console
from rich.table import Table

from channels.make import make_channels
from channels.signal import unit_power
from channels.spec import SCENARIOS, ChannelSpec
from channels.store import ChannelStore

Channels = NDArray[np.complex64]
Samples = NDArray[np.float64]

RESAMPLES = 500
"""Draws of the bootstrap."""


def decibels_of_mean(values: Samples, axis: int) -> Samples:
    """10 lg of the mean."""
    return np.asarray(10 * np.log10(values.mean(axis)))


STATISTICS: dict[str, Callable[..., Samples]] = {
    "repeat_time": decibels_of_mean,
    "repeat_frequency": decibels_of_mean,
    "slot_correlation": np.mean,
    "subcarrier_correlation": np.mean,
    "delay_spread": np.median,
    "k_factor": np.mean,
    "power_spread": np.std,
}
"""How a statistic of a set follows from one number a sample; levels in dB, the delay spread in ns."""


def measure(channels: Channels, spacing_hz: float) -> dict[str, Samples]:
    """A number a sample [n] for each statistic, of samples [n, T, K, A] at physical scale."""
    unit = unit_power(channels).astype(np.complex128)
    over_subcarriers = unit.swapaxes(1, 2)
    return {
        "repeat_time": _repeat_last(unit),
        "repeat_frequency": _repeat_last(over_subcarriers),
        "slot_correlation": _correlation(unit),
        "subcarrier_correlation": _correlation(over_subcarriers),
        "delay_spread": _delay_spread(unit, spacing_hz),
        "k_factor": _k_factor(unit),
        "power_spread": 10 * np.log10(np.mean(np.abs(channels) ** 2, axis=(1, 2, 3))),
    }


def _repeat_last(unit: Channels) -> Samples:
    """NMSE [n] of repeating the last value of the first half of axis 1 over its second half."""
    half = unit.shape[1] // 2
    truth = unit[:, half:]
    error = np.sum(np.abs(truth - unit[:, half - 1 : half]) ** 2, axis=(1, 2, 3))
    return np.asarray(error / np.sum(np.abs(truth) ** 2, axis=(1, 2, 3)))


def _correlation(unit: Channels) -> Samples:
    """|Correlation| [n] between values a quarter of axis 1 apart."""
    lag = unit.shape[1] // 4
    first, second = unit[:, :-lag], unit[:, lag:]
    product = np.abs(np.sum(first.conj() * second, axis=(1, 2, 3)))
    energy = np.sum(np.abs(first) ** 2, axis=(1, 2, 3)) * np.sum(np.abs(second) ** 2, axis=(1, 2, 3))
    return np.asarray(product / np.sqrt(energy))


def _delay_spread(unit: Channels, spacing_hz: float) -> Samples:
    """Root-mean-square delay spread in ns [n].

    From the curvature of the correlation between neighbouring subcarriers: |R(f)| = 1 - 2 (pi f spread)^2.
    """
    first, second = unit[:, :, :-1], unit[:, :, 1:]
    product = np.abs(np.sum(first.conj() * second, axis=(1, 2, 3)))
    energy = np.sum(np.abs(first) ** 2, axis=(1, 2, 3)) * np.sum(np.abs(second) ** 2, axis=(1, 2, 3))
    missing = np.maximum(1 - product / np.sqrt(energy), 0)
    return np.asarray(np.sqrt(missing / 2) / (np.pi * spacing_hz) * 1e9)


def _k_factor(unit: Channels) -> Samples:
    """K in dB [n], its mean over antennas, by the method of moments (Greenstein, 1999) over slots and subcarriers."""
    gain = np.abs(unit) ** 2
    mean = gain.mean(axis=(1, 2))
    steady = np.sqrt(np.maximum(mean**2 - gain.var(axis=(1, 2)), 1e-6 * mean**2))
    return np.asarray(10 * np.log10(steady.mean(axis=1) / np.maximum((mean - steady).mean(axis=1), 1e-9)))


def first_split(store: ChannelStore, name: str, most: int) -> Channels:
    """Samples of the set's first split, at most so many."""
    split, stored = next(iter(store.sets[name].splits.items()))
    return store.read(name, split, np.arange(min(stored.count, most)))


def make(spec: ChannelSpec, count: int, seed: int) -> Channels:
    """As many samples of the same specification, made here."""
    return np.concatenate([chunk.channel for chunk in make_channels(spec, "test", count, seed)])


def standard_error(statistic: Callable[..., Samples], values: Samples, seed: int) -> float:
    """Of a statistic of values [n], by drawing them again with replacement (bootstrap)."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return float(np.std(statistic(values[drawn], axis=1)))


def compare(store: ChannelStore, names: list[str], most: int, made_count: int, seed: int) -> list[dict[str, object]]:
    """A row a set: what it is, and each statistic: imported, made, standard error of their difference."""
    rows: list[dict[str, object]] = []
    for name in names:
        spec = store.sets[name].spec
        spacing = spec.subcarrier_spacing_khz * 1e3
        imported = first_split(store, name, most)
        theirs, ours = measure(imported, spacing), measure(make(spec, made_count, seed), spacing)
        scenario = f"{spec.scenario} {'LOS' if spec.los else 'NLOS'}"
        row: dict[str, object] = {"set": name, "scenario": scenario, "imported_samples": len(imported)}
        for field, statistic in STATISTICS.items():
            error = math.hypot(*(standard_error(statistic, values[field], seed) for values in (theirs, ours)))
            both = [float(statistic(values[field], axis=0)) for values in (theirs, ours)]
            row[field] = [round(value, 3) for value in (*both, error)]
        rows.append(row)
    return rows


def summary(rows: list[dict[str, object]]) -> dict[str, dict[str, float]]:
    """Of each statistic: the mean of |gap| over the sets, what chance alone would give, the mean gap and its error.

    by_chance: the mean of |gap| of two halves of one distribution, sqrt(2/pi) of a set's standard error.
    """
    table: dict[str, dict[str, float]] = {}
    for field in STATISTICS:
        imported, made, errors = np.asarray([row[field] for row in rows], np.float64).T
        gaps = made - imported
        table[field] = {
            "mean_absolute_gap": float(np.abs(gaps).mean()),
            "by_chance": float(np.sqrt(2 / np.pi) * errors.mean()),
            "mean_gap": float(gaps.mean()),
            "its_error": float(np.sqrt(np.sum(errors**2)) / len(rows)),
            "sets_beyond_two_errors": float(np.sum(np.abs(gaps) > 2 * errors)),
        }
    return {field: {name: round(value, 3) for name, value in values.items()} for field, values in table.items()}


def show(rows: list[dict[str, object]]) -> None:
    """Imported / made of every set with the error of the difference, and the gaps over all of them."""
    title = "imported / made \u00b1 standard error of the difference"
    table = Table("set", "scenario", *(name.replace("_", " ") for name in STATISTICS), title=title)
    for row in rows:
        cells = ["{:.2f} / {:.2f} \u00b1 {:.2f}".format(*row[name]) for name in STATISTICS]  # type: ignore[misc]
        table.add_row(str(row["set"]), str(row["scenario"]), *cells)
    table.add_section()
    means = summary(rows)
    for name in next(iter(means.values())):
        table.add_row(name.replace("_", " "), "", *(f"{means[field][name]:.2f}" for field in STATISTICS))
    Console(width=200).print(table)


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store of imported channels")
    parser.add_argument("--samples", type=int, default=128, help="most samples of an imported set")
    parser.add_argument("--made", type=int, default=256, help="samples made of each set")
    parser.add_argument("--sets", nargs="*", help="names; all that can be made otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    store = ChannelStore.open(options.store)
    makeable = [name for name, entry in store.sets.items() if entry.spec.scenario in SCENARIOS]
    rows = compare(store, options.sets or makeable, options.samples, options.made, options.seed)
    show(rows)
    if not options.no_record:
        parameters = {"samples": options.samples, "made": options.made, "seed": options.seed}
        record("channel_fidelity", parameters | {"summary": summary(rows)}, rows)


if __name__ == "__main__":
    main()
