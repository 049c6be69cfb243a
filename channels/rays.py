"""Clusters as the published generator draws them: QuaDRiGa 2.8.1 with ``use_3GPP_baseline``, in place of Sionna's.

Both follow steps 5 to 7 of TR 38.901 section 7.5, and differ in four points that a directional element makes visible:

- A cluster's angles are uniform, scaled to the angular spread, and do not depend on its power; in the standard's own
  mapping weak clusters come from far off, so that an element which looks away hides late paths.
- The line of sight takes the place of the first cluster; in the standard it is added to it.
- Delays are not stretched where there is a line of sight (equation 7.5-4 is left out).
- No cluster is dropped for being 25 dB weaker than the strongest.

Also the parameter tables hold at any carrier; the standard takes 6 GHz (UMi: 2 GHz) for all below.
"""

from typing import Any

import torch
from sionna.phy.channel import tr38901
from torch import Tensor


class _AnyCarrier:
    """A scenario whose parameters follow the carrier as it is."""

    def clip_carrier_frequency_lsp(self, fc: Tensor) -> Tensor:
        """The carrier in GHz."""
        return fc


class InHScenario(_AnyCarrier, tr38901.InHScenario):  # type: ignore[misc]
    """Indoor office at any carrier. Sionna knows scenarios by the names of their classes."""


class UMaScenario(_AnyCarrier, tr38901.UMaScenario):  # type: ignore[misc]
    """Urban macrocell at any carrier."""


class UMiScenario(_AnyCarrier, tr38901.UMiScenario):  # type: ignore[misc]
    """Urban microcell (street canyon) at any carrier."""


class PublishedRays(tr38901.RaysGenerator):  # type: ignore[misc]
    """Rays of clusters that are drawn as above. Shapes: links are [n, stations, users], clusters [links, C]."""

    def _cluster_delays(self, delay_spread: Tensor, rician_k_factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Delays in s [links, C] in ascending order from 0 (equations 7.5-1 and 7.5-2), twice, and their order."""
        _, delays, order = super()._cluster_delays(delay_spread, rician_k_factor)
        return delays, delays, order

    def _cluster_powers(
        self,
        delay_spread: Tensor,
        rician_k_factor: Tensor,
        unscaled_delays: Tensor,
        cluster_sort_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Powers [links, C] of scattered clusters (7.5-5), whose sum is 1, and those with the line of sight (7.5-8)."""
        ratio = self._of_links("rTau")
        shadowing = self._of_links("zeta") * self._spatial_normal(tuple(unscaled_delays.shape))
        slope = (ratio - 1) / (ratio * delay_spread.unsqueeze(3))
        powers = torch.exp(-unscaled_delays * slope) * 10 ** (shadowing / 10) * (1 - self._cluster_mask)
        first = torch.zeros_like(powers)
        first[..., 0] = 1
        los = self._scenario.los.unsqueeze(3)
        powers = torch.where(los, powers * (1 - first), powers)
        powers = powers / powers.sum(3, keepdim=True)
        factor = rician_k_factor.unsqueeze(3)
        return powers, torch.where(los, (powers + first * factor) / (factor + 1), powers)

    def _azimuth_angles(
        self,
        azimuth_spread: Tensor,
        rician_k_factor: Tensor,
        cluster_powers: Tensor,
        angle_type: str,
        return_cluster_angles: bool = False,
        cluster_sort_indices: Tensor | None = None,
    ) -> Any:
        """Azimuth of rays in degrees in [-180, 180), [links, C, rays], and of clusters where asked for."""
        departure = angle_type == "aod"
        centre = self._scenario.los_aod if departure else self._scenario.los_aoa
        width = self._of_links("cASD" if departure else "cASA")
        clusters = centre.unsqueeze(3) + self._offsets(azimuth_spread, cluster_powers)
        rays, clusters = _wrapped(self._rays_of(clusters, width)), _wrapped(clusters)
        return (rays, clusters) if return_cluster_angles else rays

    def _zenith_angles(
        self,
        zenith_spread: Tensor,
        rician_k_factor: Tensor,
        cluster_powers: Tensor,
        angle_type: str,
        return_cluster_angles: bool = False,
        cluster_sort_indices: Tensor | None = None,
    ) -> Any:
        """Zenith of rays in degrees in [0, 180], [links, C, rays], and of clusters where asked for."""
        if angle_type == "zod":
            centre = self._scenario.los_zod
            width = 3 / 8 * 10 ** self._scenario.lsp_log_mean[..., 6].unsqueeze(3)
        else:
            centre, width = self._scenario.los_zoa, self._of_links("cZSA")
        clusters = centre.unsqueeze(3) + self._offsets(zenith_spread, cluster_powers)
        rays, clusters = _wrapped(self._rays_of(clusters, width)).abs(), _wrapped(clusters).abs()
        return (rays, clusters) if return_cluster_angles else rays

    def _offsets(self, spread: Tensor, powers: Tensor) -> Tensor:
        """Angles [links, C] in degrees from the direction of the other end, whose spread over the powers is ``spread``.

        The strongest cluster is the centre of all of them, and the other end lies where the first path is: that is the
        line of sight, or a path without power of its own.
        """
        uniform = 2 * self._spatial_uniform(tuple(powers.shape)) - 1
        angles = torch.where(powers < powers.max(3, keepdim=True).values, uniform, 0.0)
        share = powers / powers.sum(3, keepdim=True)
        mean = (share * angles).sum(3, keepdim=True)
        width = torch.sqrt((share * angles**2).sum(3, keepdim=True) - mean**2)
        silent = 2 * self._spatial_uniform((*powers.shape[:3], 1)) - 1
        other_end = torch.where(self._scenario.los.unsqueeze(3), angles[..., :1], silent)
        return (angles - other_end) * spread.unsqueeze(3) / width

    def _rays_of(self, clusters: Tensor, width: Tensor) -> Tensor:
        """Angles [links, C, rays] of the rays of clusters [links, C] of this width (table 7.5-3)."""
        offsets: Tensor = self._ray_offsets[: self._scenario.rays_per_cluster]
        return clusters.unsqueeze(4) + width.unsqueeze(4) * offsets

    def _of_links(self, name: str) -> Tensor:
        """A parameter of the scenario's table, [links, 1]."""
        values: Tensor = self._scenario.get_param(name).unsqueeze(3)
        return values


def _wrapped(degrees: Tensor) -> Tensor:
    """Angles in [-180, 180)."""
    return torch.remainder(degrees + 180, 360) - 180
