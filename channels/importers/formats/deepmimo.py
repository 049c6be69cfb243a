"""DeepMIMO v4 scenario folders: ray-traced users of a scene, seen by each transmitter through a linear array.

Every pair of a transmitter and a receiver set becomes a set. Which users have paths, their lines of sight and positions
are read here; the package ``deepmimo`` computes the channels. They are snapshots, unless slots are asked for and the
users move: by velocities or Doppler shifts of the scenario, or by the speeds of ``--spec`` in headings drawn at random.
Folders of versions 2 and 3 are recognised and left out.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.importers.digest import digest_of
from channels.importers.formats.deepmimo_channels import Grid, compute_channels, load_pair
from channels.importers.formats.deepmimo_scenario import (
    PARAMETERS,
    Scenario,
    is_quantity,
    quantity_stem,
    read_quantities,
    read_scenario,
)
from channels.importers.formats.deepmimo_users import motion_of, speeds_of, split_users
from channels.importers.found import Findings, FoundSet, LeftOut, Parameter, SourceSplit
from channels.importers.options import ImportOptions
from channels.importers.parameters import assumed_fields, build_spec, complete, gather, given_for, usable_name
from channels.importers.reading import SAMPLE_BYTES
from channels.importers.tree import Tree
from channels.shards import Samples
from channels.spec import ChannelSpec

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
    """Users of one pair. los: bool, position: float32 metres [3], doppler_hz: of their paths, of every user.

    sender: position of the transmitter, float32 metres [3].
    """

    folder: Path
    pair: tuple[int, int, int]
    grid: Grid
    los: NDArray[np.bool_]
    position: NDArray[np.float32]
    sender: NDArray[np.float32]
    doppler_hz: NDArray[np.float64] | None

    def chunks(self, users: NDArray[np.int64]) -> Iterator[Samples]:
        """Channels complex64 [n, T, K, A] at physical scale, with labels ``los`` and positions."""
        dataset = load_pair(self.folder, self.pair, self.grid.paths)
        values = self.grid.slots * self.grid.subcarriers * self.grid.antennas
        step = max(1, min(SLICE_SAMPLES, _VALUES_AT_ONCE // values))
        for start in range(0, len(users), step):
            some = users[start : start + step]
            shifts = None if self.doppler_hz is None else self.doppler_hz[some]
            channel = compute_channels(dataset, some, self.grid, shifts)
            labels = {"los": self.los[some], "position_m": self.position[some]}
            yield Samples(channel, {**labels, "tx_position_m": np.tile(self.sender, (len(some), 1))})


def _found(scenario: Scenario, pair: tuple[int, int, int], options: ImportOptions) -> tuple[FoundSet, int]:
    """The set of one pair, and how many of its users no path reaches."""
    quantities = read_quantities(scenario.folder, pair)
    short = f"{scenario.folder.absolute().name}-t{pair[0]}-tx{pair[1]}-r{pair[2]}"
    parameters = _parameters(scenario, quantities, short, options)
    name = usable_name(f"{short}-{parameters['cols'].value}x{parameters['subcarriers'].value}")
    spec = build_spec(name, parameters, str(scenario.folder))
    if 8 * math.prod(spec.shape) > SAMPLE_BYTES:
        what = f"a sample of {spec.shape} is larger than {SAMPLE_BYTES} bytes"
        raise UserError(what, where=name, mend="ask for fewer subcarriers, slots or antennas")
    motion = motion_of(quantities, spec.speed_kmh, scenario.frequency_hz, short) if spec.slots > 1 else None
    if spec.slots > 1 and motion is None:
        mend = "give speed_kmh: [lowest, highest] with --spec FILE, or leave --slots out"
        raise UserError(f"{spec.slots} slots are asked for, but no user moves", where=str(scenario.folder), mend=mend)
    position = np.asarray(quantities["rx_pos"], np.float32)
    sender = np.asarray(quantities["tx_pos"][0], np.float32)
    los, doppler = quantities["inter"][:, 0] == 0, motion.doppler_hz if motion else None
    one = _Pair(scenario.folder.absolute(), pair, _grid(spec), los, position, sender, doppler)
    reached = np.flatnonzero(~np.isnan(quantities["aoa_az"]).all(axis=1))
    role = options.role or "pretrain"
    share = VAL_SHARE if options.val_share is None else options.val_share
    users = split_users(reached, position, role, share)
    unreached = len(position) - len(reached)
    assumed = assumed_fields(parameters)
    origin: dict[str, Any] = {
        "format": NAME,
        "source": short,
        "digest": _digest(scenario.folder, pair),
        "paths": PATHS,
        "rotation_deg": list(ROTATION_DEG),
        "val_share": share,
        **({"motion": motion.source} if motion else {}),
        **({"assumed": assumed} if assumed else {}),
    }
    found = FoundSet(
        spec=spec,
        role=role,
        reader=NAME,
        published=short,
        layout=f"DeepMIMO v4, {len(position):,} users, {quantities['aoa_az'].shape[1]} paths",
        splits={split: _split(one, chosen) for split, chosen in users.items()},
        parameters=parameters,
        origin=origin,
        notes=(f"{unreached:,} of {len(position):,} users are reached by no path",) if unreached else (),
        alternatives=(usable_name(NAME, name),),
    )
    return found, unreached


def _parameters(
    scenario: Scenario, quantities: Mapping[str, NDArray[Any]], short: str, options: ImportOptions
) -> dict[str, Parameter]:
    """Of the user's options first, then of ``--spec``, the scenario, and as in WiMamba's pre-training."""
    label = scenario.folder.absolute().name
    given = given_for(options, label, short)
    if given[1].get("rows", 1) != 1:
        mend = "leave rows out, and give cols or --antennas"
        raise UserError("channels are computed for a linear array", where=options.given.where, mend=mend)
    asked = {
        "cols": options.antennas,
        "subcarriers": options.subcarriers,
        "subcarrier_spacing_khz": options.spacing_khz,
        "slots": options.slots,
    }
    usual = {"rows": 1, "cols": ANTENNAS, "subcarriers": SUBCARRIERS, "subcarrier_spacing_khz": SPACING_KHZ}
    parameters = gather(
        ("options", {key: value for key, value in asked.items() if value is not None}),
        given,
        (PARAMETERS, {"fc_ghz": scenario.frequency_hz / 1e9, "scenario": label}),
        ("as WiMamba", usual),
        ("scenario", {"los": None, **speeds_of(quantities)}),
    )
    if "slots" not in parameters:
        parameters = {**gather(("a snapshot", {"slots": 1, "slot_ms": 1.0})), **parameters}
    return complete(parameters, (1, SUBCARRIERS, ANTENNAS))


def _grid(spec: ChannelSpec) -> Grid:
    return Grid(
        antennas=spec.antennas,
        subcarriers=spec.subcarriers,
        spacing_khz=spec.subcarrier_spacing_khz,
        paths=PATHS,
        rotation_deg=ROTATION_DEG,
        slots=spec.slots,
        slot_ms=spec.slot_ms,
    )


def _digest(folder: Path, pair: tuple[int, int, int]) -> str:
    suffix = quantity_stem(folder, "", pair).name
    return digest_of([folder / PARAMETERS, *folder.glob(f"*{suffix}.*")])


def _split(pair: _Pair, users: NDArray[np.int64]) -> SourceSplit:
    return SourceSplit(len(users), lambda: pair.chunks(users))


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
