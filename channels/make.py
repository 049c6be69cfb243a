"""Making channels: 3GPP TR 38.901 through Sionna, one independent drop a sample.

The base station is a planar array of half-wavelength spaced, vertically polarised elements with the pattern of
TR 38.901 section 7.3, looking along x. The user has one such element, which looks where it goes, in a random direction;
where the specification says so it is omnidirectional. The response is that of the downlink; by reciprocity the uplink
has the same. The geometry is that of the HeterCSI sets, indoors too: station at (0, 0, 30) m, user 20 to 50 m in front
of (200, 0, 1.5) m. Clusters are drawn as the published generator draws them (:mod:`channels.rays`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channels.errors import UserError
from channels.shards import Samples
from channels.spec import SCENARIOS, ChannelSpec

if TYPE_CHECKING:
    from sionna.phy.channel.tr38901 import SystemLevelChannel

CHUNK_SAMPLES = 64
"""Samples simulated together. Part of what a seed means: another size gives other channels."""

TABLES = "16.1"
"""Version of the TR 38.901 parameter tables: that of the published generator, whose files quote version 15."""


@dataclass(frozen=True, slots=True)
class Drops:
    """Where users are and how they move. position, velocity: float32 [n, 3] in m and m/s; speed_kmh: float32 [n]."""

    position: NDArray[np.float32]
    velocity: NDArray[np.float32]
    speed_kmh: NDArray[np.float32]


def make_channels(spec: ChannelSpec, split: str, count: int, seed: int, device: str = "cpu") -> Iterator[Samples]:
    """``count`` samples of one set in chunks, with the label ``speed_kmh`` (float32 [n]).

    A sample is a function of (spec, split, seed, its index) and of the device; asking for more of them keeps
    the first ones. Carriers are fc + i * spacing, slots i * slot_ms; the scale is physical (with path loss, shadowing).
    The global generators are left as they were. Raises UserError for a scenario or device that cannot be served.
    """
    check_makeable(spec, device)
    for start in range(0, count, CHUNK_SAMPLES):
        source = np.random.SeedSequence([seed, *f"{spec.name}/{split}".encode(), start // CHUNK_SAMPLES])
        drops = draw_drops(spec, CHUNK_SAMPLES, np.random.default_rng(source))
        wanted = min(CHUNK_SAMPLES, count - start)
        with _private_generators(int(source.generate_state(1, np.uint64)[0])):
            channel = _simulate(spec, drops, device)
        yield Samples(channel[:wanted], {"speed_kmh": drops.speed_kmh[:wanted]})


def draw_drops(spec: ChannelSpec, count: int, generator: np.random.Generator) -> Drops:
    """Positions of the geometry above, speeds uniform in the range of the spec, headings uniform in the plane."""
    angle = np.radians(generator.uniform(-60, 60, count))
    radius = generator.uniform(20, 50, count)
    position = np.stack([200 - radius * np.cos(angle), radius * np.sin(angle), np.full(count, 1.5)], 1)
    speed = generator.uniform(*spec.speed_kmh, count)
    heading = generator.uniform(0, 2 * np.pi, count)
    velocity = speed[:, None] / 3.6 * np.stack([np.cos(heading), np.sin(heading), np.zeros(count)], 1)
    return Drops(position.astype(np.float32), velocity.astype(np.float32), speed.astype(np.float32))


def as_made(spec: ChannelSpec) -> ChannelSpec:
    """The specification with everything that it leaves open as it is made."""
    return replace(spec, user_antenna=spec.user_antenna or "directional")


def generator_origin(seed: int) -> dict[str, Any]:
    """What the manifest records of made sets."""
    from importlib.metadata import version

    return {
        "generator": f"sionna-no-rt {version('sionna-no-rt')}, TR 38.901 v{TABLES}, clusters as QuaDRiGa",
        "seed": seed,
    }


def check_makeable(spec: ChannelSpec, device: str) -> None:
    """Raises UserError for a set whose channels cannot be made, or a device that is not there."""
    if spec.scenario not in SCENARIOS:
        what = f"channels of scenario {spec.scenario!r} cannot be made"
        raise UserError(what, where=f"set {spec.name}", mend=f"choose one of {', '.join(SCENARIOS)}")
    if spec.los is None:
        raise UserError("los is not set", where=f"set {spec.name}", mend="say true or false")
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device not in devices:
        raise UserError(f"there is no device {device!r}", where="--device", mend=f"here there is {', '.join(devices)}")


@contextmanager
def _private_generators(seed: int) -> Iterator[None]:
    """Sionna seeded for one chunk. It reseeds torch's global generators on import and with every seed: undone here."""
    with torch.random.fork_rng():
        from sionna.phy import config

        before = config.seed
        config.seed = seed
        try:
            yield
        finally:
            config.seed = before


def _simulate(spec: ChannelSpec, drops: Drops, device: str) -> NDArray[np.complex64]:
    """complex64 [n, T, K, A]."""
    model = _model(spec, device)
    count = len(drops.position)
    station = torch.zeros(count, 1, 3)
    station[:, :, 2] = 30.0
    topology: dict[str, Any] = {
        "ut_loc": torch.from_numpy(drops.position)[:, None].to(device),
        "bs_loc": station.to(device),
        "ut_orientations": _along(drops.velocity).to(device),
        "bs_orientations": torch.zeros(count, 1, 3, device=device),
        "ut_velocities": torch.from_numpy(drops.velocity)[:, None].to(device),
        "in_state": torch.full((count, 1), spec.scenario == "Indoor", device=device),
        "los": spec.los,
    }
    if spec.scenario == "RMa":
        topology["in_car"] = torch.zeros(count, 1, dtype=torch.bool, device=device)
    with torch.inference_mode():
        model.set_topology(**topology)
        gains, delays = model(spec.slots, 1e3 / spec.slot_ms)
        # One station and one user with one element: [n, A, paths, T] and [n, paths].
        gains = _rows_upwards(gains[:, 0, 0, 0], spec.rows, spec.cols)
        return _frequency_response(gains, delays[:, 0, 0], spec).cpu().numpy()


def _rows_upwards(gains: Tensor, rows: int, cols: int) -> Tensor:
    """Gains [n, A, paths, T] whose rows count downwards, as Sionna has them, in the order of ChannelSpec."""
    upwards = torch.arange(rows * cols, device=gains.device).view(cols, rows).flip(1).flatten()
    return gains[:, upwards]


def _along(velocity: NDArray[np.float32]) -> Tensor:
    """Yaw, pitch and roll in rad, float32 [n, 1, 3], of users whose element looks where they go."""
    orientation = torch.zeros(len(velocity), 1, 3)
    orientation[:, 0, 0] = torch.from_numpy(np.arctan2(velocity[:, 1], velocity[:, 0]))
    return orientation


def _model(spec: ChannelSpec, device: str) -> "SystemLevelChannel":
    from sionna.phy.channel.tr38901 import PanelArray, RMaScenario, SystemLevelChannel

    from channels import rays

    carrier = spec.fc_ghz * 1e9

    def array(rows: int, cols: int, pattern: str) -> PanelArray:
        return PanelArray(rows, cols, "single", "V", pattern, carrier, device=device)

    common = {
        "carrier_frequency": carrier,
        "ut_array": array(1, 1, "omni" if spec.user_antenna == "omnidirectional" else "38.901"),
        "bs_array": array(spec.rows, spec.cols, "38.901"),
        "direction": "downlink",
        "spec_version": TABLES,
        "device": device,
    }
    if spec.scenario == "UMi":
        scenario = rays.UMiScenario(o2i_model="low", **common)
    elif spec.scenario == "UMa":
        scenario = rays.UMaScenario(o2i_model="low", **common)
    elif spec.scenario == "RMa":
        scenario = RMaScenario(**common)
    else:
        scenario = rays.InHScenario(indoor_scenario="open", **common)
    model = SystemLevelChannel(scenario)
    model._ray_sampler = rays.PublishedRays(scenario)
    return model


def _frequency_response(gains: Tensor, delays: Tensor, spec: ChannelSpec) -> Tensor:
    """Path gains [n, A, paths, T] and delays in s [n, paths] to [n, T, K, A]."""
    frequency = torch.arange(spec.subcarriers, device=delays.device) * (spec.subcarrier_spacing_khz * 1e3)
    phase = -2 * torch.pi * frequency[None, :, None] * delays[:, None, :]
    turns = torch.polar(torch.ones_like(phase), phase)
    paths = gains.permute(0, 2, 3, 1).flatten(2)
    response = torch.bmm(turns, paths).view(len(delays), spec.subcarriers, spec.slots, spec.antennas)
    return response.transpose(1, 2).contiguous()
