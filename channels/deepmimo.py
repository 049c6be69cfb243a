"""Import of DeepMIMO v4 scenario folders: ray-traced users of a scene, seen by each transmitter through a linear array.

A folder holds ``params.json`` and, for each pair of a transmitter and a receiver set, one file a quantity, such as
``power_t000_tx000_r001.npz``. Every pair becomes a set of snapshots (T = 1). Which users have paths, their lines of
sight and positions are read here; the package ``deepmimo`` computes the channels.
"""

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.catalogue import Progress
from channels.errors import UserError
from channels.files import parse_json
from channels.mat5 import read_variables
from channels.shards import Samples
from channels.spec import ChannelSpec
from channels.writer import open_writer

SLICE_SAMPLES = 1024
"""Users whose channels are computed at once."""

PARAMETERS = "params.json"
QUANTITIES = ("aoa_az", "aoa_el", "aod_az", "aod_el", "delay", "inter", "phase", "power", "rx_pos", "tx_pos")
TRANSMITTERS = 1000
"""Most of one set: their numbers have three digits in the names of files."""

QUANTITY_BYTES = 2**34
"""Most of one quantity: a file of a few bytes can claim any shape."""

_PER_PATH = tuple(name for name in QUANTITIES if not name.endswith("_pos"))
_FORMATS = (".npz", ".mat")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioOptions:
    """How a scenario is seen (published values are those of WiMamba's pre-training).

    antennas: elements of the base station's linear array, half a wavelength apart; users have one. paths: at most so
    many, strongest first. rotation_deg: of the array around x, y, z. role: ``pretrain`` (splits train and val) or
    ``zeroshot`` (test). val_share: part of the users of a pre-training set that goes to val, one end of the scene.
    """

    antennas: int = 32
    subcarriers: int = 32
    subcarrier_spacing_khz: float = 30.0
    paths: int = 20
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, -135.0)
    role: str = "pretrain"
    val_share: float = 0.2

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range; ChannelSpec checks the others."""
        if self.role not in ("pretrain", "zeroshot"):
            raise UserError(f"{self.role!r} is not a role", where="role", mend="take pretrain or zeroshot")
        if not 0 <= self.val_share < 1:
            raise UserError(f"{self.val_share!r} is not a share of [0, 1)", where="val_share")
        if self.paths < 1:
            raise UserError(f"{self.paths!r} paths make no channel", where="paths", mend="published: 20")


@dataclass(frozen=True, slots=True)
class ScenarioSet:
    """The users of one receiver set that a transmitter reaches.

    users: indices in the receiver set, a split each. los: bool, position: float32 metres [3], of every user of the
    receiver set.
    """

    spec: ChannelSpec
    folder: Path
    pair: tuple[int, int, int]
    options: ScenarioOptions
    users: Mapping[str, NDArray[np.int64]]
    los: NDArray[np.bool_]
    position: NDArray[np.float32]

    @property
    def counts(self) -> dict[str, int]:
        """Samples a split."""
        return {split: len(users) for split, users in self.users.items()}

    def samples(self, split: str) -> Iterator[Samples]:
        """Channels complex64 [n, 1, K, A] at physical scale, with the labels ``los`` and ``position_m``."""
        dataset = _load(self.folder, self.pair, self.options.paths)
        for start in range(0, len(self.users[split]), SLICE_SAMPLES):
            users = self.users[split][start : start + SLICE_SAMPLES]
            channel = _channels(dataset, users, self.options)
            yield Samples(channel, {"los": self.los[users], "position_m": self.position[users]})


def import_deepmimo(source: Path, path: Path, options: ScenarioOptions, progress: Progress) -> None:
    """Import all pairs of a scenario; sets that the store holds already are left as they are.

    Raises UserError for a folder that is no complete static DeepMIMO v4 scenario and where ``deepmimo`` is missing.
    """
    found = find_sets(source, options)
    _package()
    with open_writer(path) as writer:
        for one in found:
            origin = {
                "format": "deepmimo",
                "paths": options.paths,
                "rotation_deg": list(options.rotation_deg),
                "val_share": options.val_share,
            }
            chunks = {split: one.samples(split) for split in one.users}
            writer.add_set(one.spec, options.role, one.counts, chunks, origin)
            progress(one.spec.name, sum(one.counts.values()), sum(one.counts.values()))


def find_sets(source: Path, options: ScenarioOptions) -> list[ScenarioSet]:
    """All pairs of a scenario with at least one user reached, checked file by file; no channel is computed."""
    parameters = _parameters(source)
    found = [_scenario_set(source, pair, parameters, options) for pair in _pairs(parameters, source)]
    reached = [one for one in found if sum(one.counts.values())]
    if not reached:
        raise UserError("no user is reached by a path", where=str(source))
    return reached


def _parameters(source: Path) -> dict[str, Any]:
    if not source.is_dir():
        raise UserError("no such folder", where=str(source))
    file = source / PARAMETERS
    if not file.is_file():
        raise UserError("a file is missing", where=str(file), mend="a DeepMIMO v4 scenario folder has one")
    try:
        parameters: dict[str, Any] = parse_json(file.read_bytes())
        scenes = int(parameters["scene"]["num_scenes"])
        float(parameters["rt_params"]["frequency"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"not the parameters of a DeepMIMO v4 scenario ({error!r})", where=str(file)) from error
    if scenes != 1:
        raise UserError(f"{scenes} scenes; only static scenarios can be imported", where=str(file))
    return parameters


def _pairs(parameters: Mapping[str, Any], source: Path) -> list[tuple[int, int, int]]:
    """(transmitter set, transmitter, receiver set) of every pair; transmitters that also receive are no users."""
    try:
        sets = [parameters["txrx_sets"][key] for key in sorted(parameters["txrx_sets"])]
        if any(not 0 <= one["num_points"] <= TRANSMITTERS for one in sets if one["is_tx"]):
            raise ValueError(f"not between 0 and {TRANSMITTERS} transmitters in a set")
        senders = [(int(one["id"]), index) for one in sets if one["is_tx"] for index in range(int(one["num_points"]))]
        receivers = [int(one["id"]) for one in sets if one["is_rx"] and not one["is_tx"]]
    except (KeyError, TypeError, ValueError) as error:
        what = f"not the parameters of a DeepMIMO v4 scenario ({error!r})"
        raise UserError(what, where=str(source / PARAMETERS)) from error
    return [(sender, index, receiver) for sender, index in senders for receiver in receivers]


def _scenario_set(
    source: Path, pair: tuple[int, int, int], parameters: Mapping[str, Any], options: ScenarioOptions
) -> ScenarioSet:
    quantities = {name: _quantity(source, name, pair) for name in QUANTITIES}
    _check_shapes(quantities, source)
    position = np.asarray(quantities["rx_pos"], np.float32)
    reached = np.flatnonzero(~np.isnan(quantities["aoa_az"]).all(axis=1))
    los = quantities["inter"][:, 0] == 0
    users = _split(reached, position, options)
    return ScenarioSet(_spec(source, pair, parameters, options), source.absolute(), pair, options, users, los, position)


def _check_shapes(quantities: Mapping[str, NDArray[Any]], source: Path) -> None:
    """One number a user and path, three a position."""
    users, paths = quantities["rx_pos"].shape[0], quantities["aoa_az"].shape[-1]
    expected = {"rx_pos": (users, 3), "tx_pos": (1, 3), **dict.fromkeys(_PER_PATH, (users, paths))}
    for name, values in quantities.items():
        if values.shape != expected[name] or values.dtype.kind not in "fiu":
            what = f"{name} is of shape {values.shape} and type {values.dtype}, not numbers of shape {expected[name]}"
            raise UserError(what, where=str(source), mend="fetch the scenario again")


def _spec(
    source: Path, pair: tuple[int, int, int], parameters: Mapping[str, Any], options: ScenarioOptions
) -> ChannelSpec:
    scenario = source.absolute().name
    sender, index, receiver = pair
    mapping = {
        "name": f"{scenario}-t{sender}-tx{index}-r{receiver}-{options.antennas}x{options.subcarriers}",
        "fc_ghz": float(parameters["rt_params"]["frequency"]) / 1e9,
        "subcarriers": options.subcarriers,
        "subcarrier_spacing_khz": options.subcarrier_spacing_khz,
        "slots": 1,
        "slot_ms": 1.0,
        "rows": 1,
        "cols": options.antennas,
        "scenario": scenario,
        "los": None,
        "speed_kmh": [0.0, 0.0],
    }
    return ChannelSpec.from_mapping(mapping, str(source))


def _split(
    users: NDArray[np.int64], position: NDArray[np.float32], options: ScenarioOptions
) -> dict[str, NDArray[np.int64]]:
    """Users of each split. Neighbours have nearly the same channel, so val is one end of the scene's longest side."""
    if options.role == "zeroshot" or not len(users):
        return {"test": users}
    extent = np.ptp(position[users], axis=0)
    along = users[np.argsort(position[users, int(np.argmax(extent))], kind="stable")]
    train = len(along) - int(options.val_share * len(along))
    return {"train": along[:train], "val": along[train:]}


def _stem(source: Path, name: str, pair: tuple[int, int, int]) -> Path:
    sender, index, receiver = pair
    return source / f"{name}_t{sender:03}_tx{index:03}_r{receiver:03}"


def _quantity(source: Path, name: str, pair: tuple[int, int, int]) -> NDArray[Any]:
    """The array of one file, read without pickle: a scenario is somebody else's data."""
    stem = _stem(source, name, pair)
    file = next((found for found in (stem.with_suffix(end) for end in _FORMATS) if found.is_file()), None)
    if file is None:
        where = str(stem.with_suffix(_FORMATS[0]))
        raise UserError("a file is missing", where=where, mend="fetch the scenario again")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as content:
                return np.atleast_2d(content[name])
        return np.atleast_2d(np.asarray(read_variables(file, [name], QUANTITY_BYTES)[name]))
    # numpy and zipfile raise whatever their parsers stumble over on a broken file.
    except Exception as error:
        raise UserError(f"cannot be read ({error})", where=str(file), mend="fetch the scenario again") from error


def _package() -> Any:
    with _quiet():
        try:
            import deepmimo
        except ModuleNotFoundError as error:
            if error.name != "deepmimo":
                raise
            mend = "pip install 'wavetrain[deepmimo]'"
            raise UserError("the package deepmimo is not installed", where="import of DeepMIMO", mend=mend) from error
    return deepmimo


def _load(folder: Path, pair: tuple[int, int, int], paths: int) -> Any:
    """The package's dataset of one pair.

    The package looks for a lower-case name below a configured folder and asks on the terminal where there is none, and
    it unpickles what it reads: so a copy of the checked arrays is shown to it under a name it accepts. The scene's
    buildings, which no channel needs, are left out.

    Raises UserError for parameters that it cannot use.
    """
    deepmimo = _package()
    sender, index, receiver = pair
    before = deepmimo.config.get("scenarios_folder")
    with tempfile.TemporaryDirectory() as shown, _quiet():
        scenario = Path(shown) / "scenario"
        scenario.mkdir()
        (scenario / PARAMETERS).write_bytes((folder / PARAMETERS).read_bytes())
        for name in QUANTITIES:
            np.savez(_stem(scenario, name, pair), allow_pickle=False, **{name: _quantity(folder, name, pair)})
        deepmimo.config.set("scenarios_folder", shown)
        try:
            return deepmimo.load(
                "scenario",
                max_paths=paths,
                tx_sets={sender: [index]},
                rx_sets={receiver: "all"},
                matrices=[*QUANTITIES],
            )
        # Parameters of a foreign scenario are not checked further by the package than it happens to stumble.
        except Exception as error:
            what = f"the package deepmimo cannot use it ({error!r})"
            raise UserError(what, where=str(folder / PARAMETERS), mend="fetch the scenario again") from error
        finally:
            deepmimo.config.set("scenarios_folder", before)


def _channels(dataset: Any, users: NDArray[np.int64], options: ScenarioOptions) -> NDArray[np.complex64]:
    """Complex64 [n, 1, K, A] of some users."""
    bandwidth = options.subcarriers * options.subcarrier_spacing_khz * 1e3
    subcarriers = np.arange(options.subcarriers)
    with _quiet():
        parameters = _package().ChannelParameters(
            bs_antenna={"shape": np.array([options.antennas, 1]), "rotation": np.array(options.rotation_deg)},
            ue_antenna={"shape": np.array([1, 1])},
            num_paths=options.paths,
            ofdm={"subcarriers": len(subcarriers), "selected_subcarriers": subcarriers, "bandwidth": bandwidth},
        )
        channel = dataset.trim(idxs=users).compute_channels(parameters)
    # [n, 1 receive antenna, A, K]
    return np.ascontiguousarray(channel.swapaxes(2, 3), np.complex64)


@contextmanager
def _quiet() -> Iterator[None]:
    """The package prints notes and progress bars; standard output may be JSON."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
