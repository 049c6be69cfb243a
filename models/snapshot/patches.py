"""Square patches of single snapshots (WiMamba, LWM): an antennas x subcarriers matrix cut into p x p blocks.

Blocks are in row-major order of the matrix, as published: subcarrier blocks fastest. Inside a token the elements of a
block are in row-major order too, all real parts before all imaginary parts, where the published tokeniser interleaves
them along the subcarriers: the same numbers under a fixed permutation, which the first linear layer absorbs.
"""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from channels.errors import UserError
from models.interface import Shape, Tokens
from models.layers.patches import Grid, grid_of, make_patches, patch_tensor, unpatch


def snapshot_grid(shape: Shape, patch: int) -> Grid:
    """Blocks along (slots, subcarriers, antennas) of one snapshot. Raises UserError for an axis shorter than 1."""
    slots, subcarriers, antennas = shape
    return grid_of((min(slots, 1), subcarriers, antennas), (1, patch, patch))


def patch_snapshots(channels: NDArray[np.complex64], patch: int) -> Tokens:
    """Tokens [n, L, 2 p^2] of snapshots [n, 1, K, A]. Raises UserError for an empty axis and for a value not finite."""
    tokens = make_patches(channels.swapaxes(2, 3), (1, patch, patch))
    finite = np.isfinite(tokens.values.reshape(len(channels), -1)).all(axis=1)
    if not finite.all():
        what = f"channel {int(np.argmin(finite))} of the {len(channels)} to be patched holds NaN or infinity"
        raise UserError(what, mend="find it with 'wavetrain channels verify' and make or import its set again")
    slots, antennas, subcarriers = tokens.grid
    return Tokens(values=tokens.values, elements=tokens.elements, grid=(slots, subcarriers, antennas))


def patch_matrices(channels: Tensor, patch: int) -> Tensor:
    """Tokens float32 [n, L, 2 p^2] of complex64 matrices [n, K, A] on their device; their values are not checked.

    Raises:
        UserError: an empty axis.
    """
    snapshot_grid((1, channels.shape[1], channels.shape[2]), patch)
    return patch_tensor(channels.transpose(1, 2)[:, None], (1, patch, patch))


def unpatch_matrices(values: Tensor, shape: Shape, patch: int) -> Tensor:
    """Complex [n, K, A] of tokens [n, L, 2 p^2], the filled elements cut off."""
    _, subcarriers, antennas = shape
    slots, blocks_k, blocks_a = snapshot_grid(shape, patch)
    matrices = unpatch(values, (slots, blocks_a, blocks_k), (1, patch, patch))[:, 0]
    return matrices[:, :antennas, :subcarriers].transpose(1, 2)


def snapshot_tokens(shape: Shape, patch: int) -> int:
    """Patches of one snapshot."""
    return math.prod(snapshot_grid(shape, patch))


def corner(weight: Tensor, widest: int, patch: int) -> Tensor:
    """Rows [2 p^2, ...] of a weight [2 w^2, ...] over the widest patch that belong to its upper left p x p corner."""
    square = weight.view(2, widest, widest, *weight.shape[1:])
    return square[:, :patch, :patch].reshape(2 * patch * patch, *weight.shape[1:])
