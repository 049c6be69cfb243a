"""Channels made here beside channels of the same specifications that another generator made: statistics of each set.

    wavetrain channels import FOLDER --store data/quadriga
    python benchmarks/channel_fidelity.py data/quadriga [--samples 128] [--seed 0]

Every set of the store is made again from its specification and measured: the error of repeating the last known slot or
subcarrier over the second half of the axis (mean NMSE, dB), correlation between slots and between subcarriers a
quarter of the axis apart, root-mean-square delay spread, K factor, and the spread of power over the samples.
"""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from record import record
from rich.console import Console
from rich.table import Table

from channels.make import make_channels
from channels.signal import unit_power
from channels.spec import SCENARIOS, ChannelSpec
from channels.store import ChannelStore

Channels = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is compared of one set; levels in dB, the delay spread in ns."""

    repeat_time: float
    repeat_frequency: float
    slot_correlation: float
    subcarrier_correlation: float
    delay_spread: float
    k_factor: float
    power_spread: float


NAMES = tuple(field.name for field in fields(Statistics))


def measure(channels: Channels, spacing_hz: float) -> Statistics:
    """Statistics of samples [n, T, K, A] at physical scale, whose subcarriers lie this far apart."""
    power = 10 * np.log10(np.mean(np.abs(channels) ** 2, axis=(1, 2, 3)))
    unit = unit_power(channels).astype(np.complex128)
    return Statistics(
        repeat_time=_repeat_last(unit),
        repeat_frequency=_repeat_last(unit.swapaxes(1, 2)),
        slot_correlation=_correlation(unit),
        subcarrier_correlation=_correlation(unit.swapaxes(1, 2)),
        delay_spread=_delay_spread(unit, spacing_hz),
        k_factor=_k_factor(unit),
        power_spread=float(np.std(power)),
    )


def _repeat_last(unit: Channels) -> float:
    """Error in dB of repeating the last value of the first half of axis 1 over its second half."""
    half = unit.shape[1] // 2
    truth = unit[:, half:]
    error = np.sum(np.abs(truth - unit[:, half - 1 : half]) ** 2, axis=(1, 2, 3))
    return float(10 * np.log10(np.mean(error / np.sum(np.abs(truth) ** 2, axis=(1, 2, 3)))))


def _correlation(unit: Channels) -> float:
    """Mean over the samples of |correlation| between values a quarter of axis 1 apart."""
    lag = unit.shape[1] // 4
    first, second = unit[:, :-lag], unit[:, lag:]
    product = np.abs(np.sum(first.conj() * second, axis=(1, 2, 3)))
    energy = np.sum(np.abs(first) ** 2, axis=(1, 2, 3)) * np.sum(np.abs(second) ** 2, axis=(1, 2, 3))
    return float(np.mean(product / np.sqrt(energy)))


def _delay_spread(unit: Channels, spacing_hz: float) -> float:
    """Median over the samples of the root-mean-square delay spread in ns.

    From the curvature of the correlation between neighbouring subcarriers: |R(f)| = 1 - 2 (pi f spread)^2.
    """
    first, second = unit[:, :, :-1], unit[:, :, 1:]
    product = np.abs(np.sum(first.conj() * second, axis=(1, 2, 3)))
    energy = np.sum(np.abs(first) ** 2, axis=(1, 2, 3)) * np.sum(np.abs(second) ** 2, axis=(1, 2, 3))
    missing = np.maximum(1 - product / np.sqrt(energy), 0)
    return float(np.median(np.sqrt(missing / 2) / (np.pi * spacing_hz))) * 1e9


def _k_factor(unit: Channels) -> float:
    """Mean over the samples of K in dB by the method of moments (Greenstein, 1999) over slots and subcarriers."""
    gain = np.abs(unit) ** 2
    mean = gain.mean(axis=(1, 2))
    steady = np.sqrt(np.maximum(mean**2 - gain.var(axis=(1, 2)), 1e-6 * mean**2))
    return float(np.mean(10 * np.log10(steady.mean(axis=1) / np.maximum((mean - steady).mean(axis=1), 1e-9))))


def first_split(store: ChannelStore, name: str, most: int) -> Channels:
    """Samples of the set's first split, at most so many."""
    split, stored = next(iter(store.sets[name].splits.items()))
    return store.read(name, split, np.arange(min(stored.count, most)))


def make(spec: ChannelSpec, count: int, seed: int) -> Channels:
    """As many samples of the same specification, made here."""
    return np.concatenate([chunk.channel for chunk in make_channels(spec, "test", count, seed)])


def compare(store: ChannelStore, names: list[str], most: int, made_count: int, seed: int) -> list[dict[str, object]]:
    """A row a set: what it is, and each statistic of the imported and of the made samples."""
    rows: list[dict[str, object]] = []
    for name in names:
        spec = store.sets[name].spec
        spacing = spec.subcarrier_spacing_khz * 1e3
        theirs = measure(first_split(store, name, most), spacing)
        ours = measure(make(spec, made_count, seed), spacing)
        row: dict[str, object] = {"set": name, "scenario": f"{spec.scenario} {'LOS' if spec.los else 'NLOS'}"}
        for field in NAMES:
            row[field] = [round(getattr(theirs, field), 3), round(getattr(ours, field), 3)]
        rows.append(row)
    return rows


def gaps(rows: list[dict[str, object]], field: str) -> NDArray[np.float64]:
    """Differences [sets], made minus imported, of a statistic."""
    pairs = np.asarray([row[field] for row in rows], np.float64)
    return pairs[:, 1] - pairs[:, 0]


def show(rows: list[dict[str, object]]) -> None:
    """Imported / made of every set, and the gaps over all of them."""
    table = Table("set", "scenario", *(name.replace("_", " ") for name in NAMES), title="imported / made")
    for row in rows:
        pairs = [f"{row[name][0]:.2f} / {row[name][1]:.2f}" for name in NAMES]  # type: ignore[index]
        table.add_row(str(row["set"]), str(row["scenario"]), *pairs)
    table.add_section()
    table.add_row("mean of |gap|", "", *(f"{np.abs(gaps(rows, name)).mean():.2f}" for name in NAMES))
    table.add_row("mean gap", "", *(f"{gaps(rows, name).mean():+.2f}" for name in NAMES))
    Console(width=180).print(table)


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store of imported channels")
    parser.add_argument("--samples", type=int, default=128, help="most samples of an imported set")
    parser.add_argument("--made", type=int, default=128, help="samples made of each set")
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
        mean_gaps = {name: round(float(np.abs(gaps(rows, name)).mean()), 3) for name in NAMES}
        record("channel_fidelity", parameters | {"mean_absolute_gap": mean_gaps}, rows)


if __name__ == "__main__":
    main()
