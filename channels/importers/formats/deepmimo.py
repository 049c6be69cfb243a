"""DeepMIMO v4 scenario folders: ray-traced users of a scene, seen by each transmitter through a linear array.

Every pair of a transmitter and a receiver set becomes a set. Which users have paths, their lines of sight and positions
are read here; the package ``deepmimo`` computes the channels. They are snapshots, unless slots are asked for and the
users move: by velocities or Doppler shifts of the scenario, or by the speeds of ``--spec`` in headings drawn at random.
Folders of versions 2 and 3 are recognised and left out.
"""

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.importers.digest import digest_of
from channels.importers.formats.deepmimo_channels import Grid, compute_channels, doppler_of, load_pair
from channels.importers.formats.deepmimo_scenario import (
    DOPPLER,
    PARAMETERS,
    VELOCITY,
    Scenario,
    is_quantity,
    quantity_stem,
    read_quantities,
    read_scenario,
)
from channels.importers.found import Findings, FoundSet, LeftOut, SourceSplit
from channels.importers.options import ImportOptions
from channels.importers.parameters import assumed_fields, build_spec, complete, gather, given_for, usable_name
from channels.importers.reading import SAMPLE_BYTES
from channels.importers.tree import Tree
from channels.shards import Samples

NAME = "deepmimo"
SLICE_SAMPLES = 1024
"""Users whose channels are computed at once."""

ANTENNAS, SUBCARRIERS, SPACING_KHZ, PATHS, ROTATION_DEG = 32, 32, 30.0, 20, (0.0, 0.0, -135.0)
"""As in WiMamba's pre-training."""
VAL_SHARE = 0.2
_VALUES_AT_ONCE = 2**24
_OLD = re.compile(r"BS\d+_(BS|UE_\d+-\d+)\.mat|.*\.(CIR|DoD|DoA|PL|LoS|TX_Loc)\.mat|.*\.params\.mat", re.IGNORECASE)


def find_deepmimo(tree: Tree, options: ImportOptions) -> Findings:
    """All pairs of all scenarios of a source, with the users that no path reaches counted.

    Raises UserError for a scenario that is incomplete or not static.
    """
    sets: list[FoundSet] = []
    old = [file for file in tree.files if _OLD.fullmatch(file.name) or _is_old_parameters(file)]
    left_out = [_old_version(folder) for folder in dict.fromkeys(file.parent for file in old)]
    claimed = set(old)
    folders = dict.fromkeys(file.parent for file in tree.files if is_quantity(file))
    for folder in tree.folders_with({PARAMETERS}) if options.format == NAME else folders:
        found, passed = find_scenario(folder, options)
        sets += found
        left_out += passed
        claimed |= {folder / PARAMETERS}
        stems = {quantity_stem(folder, "", pair).name for pair in read_scenario(folder).pairs}
        claimed |= {file for file in tree.files_of(folder) if any(file.stem.endswith(stem) for stem in stems)}
        claimed |= {file for file in tree.files_of(folder) if file.stem in ("objects", "vertices")}
    return Findings(tuple(sets), tuple(left_out), frozenset(claimed))


def find_scenario(folder: Path, options: ImportOptions) -> tuple[list[FoundSet], list[LeftOut]]:
    """The pairs of one scenario with at least one user reached, checked file by file; no channel is computed."""
    scenario = read_scenario(folder)
    sets: list[FoundSet] = []
    left_out: list[LeftOut] = []
    for pair in scenario.pairs:
        found, unreached = _found(scenario, pair, options)
        if unreached:
            left_out.append(LeftOut(f"{folder.name}: {unreached:,} users of {found.published}", "no path reaches them"))
        if sum(found.counts.values()):
            sets.append(found)
    if not sets:
        raise UserError("no user is reached by a path", where=str(folder))
    return sets, left_out


@dataclass(frozen=True, slots=True)
class _Pair:
    """Users of one pair. los: bool, position: float32 metres [3], doppler_hz: of their paths, of every user."""

    folder: Path
    pair: tuple[int, int, int]
    grid: Grid
    los: NDArray[np.bool_]
    position: NDArray[np.float32]
    doppler_hz: NDArray[np.float64] | None

    def chunks(self, users: NDArray[np.int64]) -> Iterator[Samples]:
        """Channels complex64 [n, T, K, A] at physical scale, with the labels ``los`` and ``position_m``."""
        dataset = load_pair(self.folder, self.pair, self.grid.paths)
        values = self.grid.slots * self.grid.subcarriers * self.grid.antennas
        step = max(1, min(SLICE_SAMPLES, _VALUES_AT_ONCE // values))
        for start in range(0, len(users), step):
            some = users[start : start + step]
            shifts = None if self.doppler_hz is None else self.doppler_hz[some]
            channel = compute_channels(dataset, some, self.grid, shifts)
            yield Samples(channel, {"los": self.los[some], "position_m": self.position[some]})


def _found(scenario: Scenario, pair: tuple[int, int, int], options: ImportOptions) -> tuple[FoundSet, int]:
    """The set of one pair, and how many of its users no path reaches."""
    quantities = read_quantities(scenario.folder, pair)
    label = scenario.folder.absolute().name
    sender, index, receiver = pair
    short = f"{label}-t{sender}-tx{index}-r{receiver}"
    given = given_for(options, label, short)
    antennas = options.antennas or given[1].get("cols", ANTENNAS)
    subcarriers = options.subcarriers or given[1].get("subcarriers", SUBCARRIERS)
    slots = options.slots or given[1].get("slots", 1)
    if given[1].get("rows", 1) != 1:
        mend = "leave rows out, and give cols or --antennas"
        raise UserError("channels are computed for a linear array", where=options.given.where, mend=mend)
    asked = {"cols": options.antennas, "subcarriers": options.subcarriers, "slots": options.slots}
    parameters = gather(
        ("options", {key: value for key, value in asked.items() if value}),
        ("options", {"subcarrier_spacing_khz": options.spacing_khz} if options.spacing_khz else {}),
        given,
        (PARAMETERS, {"fc_ghz": scenario.frequency_hz / 1e9, "scenario": label}),
        (
            "as WiMamba",
            {"rows": 1, "cols": antennas, "subcarriers": subcarriers, "subcarrier_spacing_khz": SPACING_KHZ},
        ),
        ("a snapshot", {"slots": 1, "slot_ms": 1.0} if slots == 1 else {}),
        ("scenario", {"los": None}),
        ("scenario", _speeds(quantities)),
    )
    parameters = complete(parameters, (slots, subcarriers, antennas))
    name = usable_name(f"{short}-{parameters['cols'].value}x{parameters['subcarriers'].value}")
    spec = build_spec(name, parameters, str(scenario.folder))
    if 8 * math.prod(spec.shape) > SAMPLE_BYTES:
        raise UserError(
            f"a sample of {spec.shape} is larger than {SAMPLE_BYTES} bytes", where=name, mend="ask for less"
        )
    grid = Grid(
        antennas=spec.antennas,
        subcarriers=spec.subcarriers,
        spacing_khz=spec.subcarrier_spacing_khz,
        paths=PATHS,
        rotation_deg=ROTATION_DEG,
        slots=spec.slots,
        slot_ms=spec.slot_ms,
    )
    position = np.asarray(quantities["rx_pos"], np.float32)
    doppler = _doppler(quantities, spec.speed_kmh, scenario.frequency_hz, short) if spec.slots > 1 else None
    if spec.slots > 1 and doppler is None:
        mend = "give speed_kmh: [lowest, highest] with --spec FILE, or leave --slots out"
        raise UserError(f"{spec.slots} slots are asked for, but no user moves", where=str(scenario.folder), mend=mend)
    reached = np.flatnonzero(~np.isnan(quantities["aoa_az"]).all(axis=1))
    one = _Pair(scenario.folder.absolute(), pair, grid, quantities["inter"][:, 0] == 0, position, doppler)
    role = options.role or "pretrain"
    share = VAL_SHARE if options.val_share is None else options.val_share
    users = split_users(reached, position, role, share)
    unreached = len(position) - len(reached)
    assumed = assumed_fields(parameters)
    suffix = quantity_stem(scenario.folder, "", pair).name
    origin: dict[str, Any] = {
        "format": NAME,
        "source": short,
        "digest": digest_of([scenario.folder / PARAMETERS, *scenario.folder.glob(f"*{suffix}.*")]),
        "paths": PATHS,
        "rotation_deg": list(ROTATION_DEG),
        "val_share": share,
    }
    found = FoundSet(
        spec=spec,
        role=role,
        reader=NAME,
        published=short,
        layout=f"DeepMIMO v4, {len(position):,} users, {quantities['aoa_az'].shape[1]} paths",
        splits={split: _split(one, chosen) for split, chosen in users.items()},
        parameters=parameters,
        origin=origin | ({"assumed": assumed} if assumed else {}),
        notes=(f"{unreached:,} of {len(position):,} users are reached by no path",) if unreached else (),
        alternatives=(usable_name(NAME, name),),
    )
    return found, unreached


def _split(pair: _Pair, users: NDArray[np.int64]) -> SourceSplit:
    return SourceSplit(len(users), lambda: pair.chunks(users))


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


def _speeds(quantities: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Lowest and highest speed of the users, where the scenario has their velocities."""
    if VELOCITY not in quantities:
        return {}
    speed = 3.6 * np.linalg.norm(np.nan_to_num(quantities[VELOCITY].astype(np.float64)), axis=1)
    return {"speed_kmh": [float(speed.min(initial=np.inf)), float(speed.max(initial=0.0))]} if len(speed) else {}


def _doppler(
    quantities: Mapping[str, NDArray[Any]], speed_kmh: tuple[float, float], frequency_hz: float, name: str
) -> NDArray[np.float64] | None:
    """Doppler shifts of every path: the scenario's own, those of its velocities, or of speeds in random headings."""
    if DOPPLER in quantities:
        return quantities[DOPPLER].astype(np.float64)
    if VELOCITY in quantities:
        velocity = np.nan_to_num(quantities[VELOCITY].astype(np.float64))
    elif speed_kmh[1] > 0:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        users = len(quantities["rx_pos"])
        speed, heading = random.uniform(*speed_kmh, users) / 3.6, random.uniform(0, 2 * np.pi, users)
        velocity = np.stack([speed * np.cos(heading), speed * np.sin(heading), 0 * speed], axis=1)
    else:
        return None
    return doppler_of(velocity, quantities["aoa_az"], quantities["aoa_el"], frequency_hz)


def _is_old_parameters(file: Path) -> bool:
    return file.name == "params.mat" and any(file.parent.glob("BS*_*.mat"))


def _old_version(folder: Path) -> LeftOut:
    name = folder.absolute().name
    why = (
        "a DeepMIMO scenario of version 2 or 3, which is not read: fetch its v4 form with "
        f"python -c \"import deepmimo; deepmimo.download('{name.lower()}')\", or save what DeepMIMOv3 generates with "
        "numpy.save('H.npy', dataset[0]['user']['channel']) and import that with --axes n,1,a,k"
    )
    return LeftOut(name, why)
