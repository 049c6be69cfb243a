import numpy as np
import pytest
import torch

from channels import rays
from channels.make import TABLES

N = 4000


def generator(kind: type, los: bool, carrier: float = 3.5e9) -> "rays.PublishedRays":
    from sionna.phy.channel.tr38901 import PanelArray

    element = PanelArray(1, 1, "single", "V", "omni", carrier)
    extra = {"indoor_scenario": "open"} if kind is rays.InHScenario else {"o2i_model": "low"}
    scenario = kind(
        carrier_frequency=carrier,
        ut_array=element,
        bs_array=element,
        direction="downlink",
        spec_version=TABLES,
        **extra,
    )
    station, user = torch.tensor([0.0, 0.0, 30.0]).repeat(N, 1, 1), torch.tensor([170.0, 0.0, 1.5]).repeat(N, 1, 1)
    zero, inside = torch.zeros(N, 1, 3), torch.full((N, 1), kind is rays.InHScenario)
    scenario.set_topology(user, station, zero, zero, zero, inside, los)
    drawn = rays.PublishedRays(scenario)
    drawn.topology_updated_callback()
    return drawn


def test_the_standard_tables_hold_below_six_gigahertz():
    # TR 38.901 v15 table 7.5-6, indoor office NLOS: lg(DS / 1 s) has mean -0.28 lg(1 + fc) - 7.173, fc in GHz.
    drawn = generator(rays.InHScenario, False, 2.4e9)
    mean = drawn._scenario.lsp_log_mean[..., 0]
    torch.testing.assert_close(mean, torch.full_like(mean, -0.28 * np.log10(3.4) - 7.173))


@pytest.mark.parametrize("los", [True, False])
def test_angles_have_the_spread_that_is_asked_for_whatever_the_powers_are(los: bool):
    drawn = generator(rays.UMaScenario, los)
    spread, factor, width = torch.full((N, 1, 1), 100e-9), torch.full((N, 1, 1), 8.0), torch.full((N, 1, 1), 20.0)
    delays, unscaled, order = drawn._cluster_delays(spread, factor)
    torch.testing.assert_close(delays, unscaled)
    powers, with_los = drawn._cluster_powers(spread, factor, unscaled, order)
    torch.testing.assert_close(powers.sum(3), torch.ones(N, 1, 1))
    torch.testing.assert_close(with_los.sum(3), torch.ones(N, 1, 1))
    offsets = drawn._offsets(width, with_los)
    mean = (with_los * offsets).sum(3, keepdim=True)
    torch.testing.assert_close((with_los * (offsets - mean) ** 2).sum(3).sqrt(), width, rtol=1e-3, atol=1e-3)
    # Of the standard's own angles the outer ones are those of weak clusters; these know nothing of the powers.
    weakest, others = with_los[..., 1:].argmin(3, keepdim=True), offsets[..., 1:].abs()
    ratio = others.gather(3, weakest).mean() / others.mean()
    assert 0.8 < ratio < 1.2
    if los:
        torch.testing.assert_close(with_los[..., 0], torch.full((N, 1, 1), 8 / 9))
        assert not powers[..., 0].any() and not offsets[..., 0].any()
    else:
        assert powers[..., 0].all()


def test_angles_are_on_the_sphere():
    drawn = generator(rays.UMiScenario, False)
    wide, factor = torch.full((N, 1, 1), 100.0), torch.ones(N, 1, 1)
    powers = torch.rand(N, 1, 1, drawn._scenario.num_clusters_max) + 0.1
    azimuth = drawn._azimuth_angles(wide, factor, powers, "aoa")
    zenith, clusters = drawn._zenith_angles(wide, factor, powers, "zod", True)
    assert azimuth.min() >= -180 and azimuth.max() < 180 and azimuth.shape[-1] == 20
    assert zenith.min() >= 0 and zenith.max() <= 180 and clusters.shape == zenith.shape[:-1]
