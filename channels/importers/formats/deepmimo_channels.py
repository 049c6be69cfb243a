"""Channels of a DeepMIMO scenario's users, computed by the package ``deepmimo``."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError, reason_of
from channels.importers.formats.deepmimo_scenario import PARAMETERS, QUANTITIES, quantity_stem, read_quantity


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """What is computed. antennas: of the sender's linear array, half a wavelength apart, turned around x, y, z.

    paths: at most so many, strongest first. slots, slot_ms: of the time axis, along which only Doppler shifts act.
    """

    antennas: int
    subcarriers: int
    spacing_khz: float
    paths: int
    rotation_deg: tuple[float, float, float]
    slots: int
    slot_ms: float


def import_package() -> Any:
    """The package. Raises UserError where it is not installed."""
    with _quiet():
        try:
            import deepmimo
        except ModuleNotFoundError as error:
            if error.name != "deepmimo":
                raise
            mend = "pip install 'wavetrain[deepmimo]'"
            raise UserError("the package deepmimo is not installed", where="import of DeepMIMO", mend=mend) from error
    return deepmimo


def load_pair(folder: Path, pair: tuple[int, int, int], paths: int) -> Any:
    """The package's dataset of one pair.

    The package looks for a lower-case name below a configured folder and asks on the terminal where there is none, and
    it unpickles what it reads: so a copy of the checked arrays is shown to it under a name it accepts. The scene's
    buildings, which no channel needs, are left out.

    Raises UserError for parameters that it cannot use.
    """
    deepmimo = import_package()
    sender, index, receiver = pair
    before = deepmimo.config.get("scenarios_folder")
    with tempfile.TemporaryDirectory() as shown, _quiet():
        scenario = Path(shown) / "scenario"
        scenario.mkdir()
        (scenario / PARAMETERS).write_bytes((folder / PARAMETERS).read_bytes())
        for name in QUANTITIES:
            values = read_quantity(folder, name, pair)
            np.savez(quantity_stem(scenario, name, pair), allow_pickle=False, **{name: values})
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
            what = f"the package deepmimo cannot use it ({reason_of(error)})"
            raise UserError(what, where=str(folder / PARAMETERS), mend="fetch the scenario again") from error
        finally:
            deepmimo.config.set("scenarios_folder", before)


def compute_channels(
    dataset: Any, users: NDArray[np.int64], grid: Grid, doppler_hz: NDArray[np.float64] | None
) -> NDArray[np.complex64]:
    """Complex64 [n, T, K, A] of some users. doppler_hz: of each of their paths [n, paths], None where nothing moves."""
    subcarriers = np.arange(grid.subcarriers)
    with _quiet():
        parameters = import_package().ChannelParameters(
            bs_antenna={"shape": np.array([grid.antennas, 1]), "rotation": np.array(grid.rotation_deg)},
            ue_antenna={"shape": np.array([1, 1])},
            num_paths=grid.paths,
            doppler=doppler_hz is not None,
            ofdm={
                "subcarriers": len(subcarriers),
                "selected_subcarriers": subcarriers,
                "bandwidth": grid.subcarriers * grid.spacing_khz * 1e3,
            },
        )
        chosen = dataset.trim(idxs=users)
        if doppler_hz is not None:
            chosen.set_doppler(np.nan_to_num(doppler_hz[:, : chosen.max_paths]))
        times = np.arange(grid.slots) * grid.slot_ms / 1e3
        channel = chosen.compute_channels(parameters, times=times)
    # [n, 1 receive antenna, A, K], and slots last where there are several.
    if channel.ndim == 4:
        return np.ascontiguousarray(channel.swapaxes(2, 3), np.complex64)
    return np.ascontiguousarray(channel[:, 0].transpose(0, 3, 2, 1), np.complex64)


@contextmanager
def _quiet() -> Iterator[None]:
    """The package prints notes and progress bars; standard output may be JSON."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
