"""WiFo's network: the shared auto-encoder, trained on the squared magnitude of complex errors."""

from torch import Tensor

from models.autoencoder.model import MaskedAutoencoder
from models.autoencoder.sizes import Size
from models.interface import MaskDraw, PackedBatch, TokenBatch
from models.layers.masking import MaskRatios


class Wifo(MaskedAutoencoder):
    """An encoder over kept tokens, a decoder over all tokens.

    published_positions: the encoder's positions as the published code has them, of padded batches only.
    """

    def __init__(self, size: Size, ratios: MaskRatios, published_positions: bool) -> None:
        super().__init__(size, "stf", ratios)
        self.published_positions = published_positions

    def forward(self, batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Tensor:
        """Loss sums float32 [3], one a task; a token's error is the mean |e|^2 of its complex elements (Eq. 12)."""
        # The mean over real and imaginary parts is half of it.
        return 2 * super().forward(batch, draw)

    def encoder_index(self, task: str, index: Tensor, grid: Tensor) -> Tensor:
        """Tokens whose positions the encoder's tokens have: themselves.

        The published code looks them up by the number of the slot block (time) or subcarrier block (frequency) as if
        that were the number of a token, of which the first ones are those of the first slot and antenna block.
        """
        if not self.published_positions or task == "reconstruction":
            return index
        subcarriers, antennas = grid[:, 1:2], grid[:, 2:]
        block = index // (subcarriers * antennas) if task == "time" else index // antennas % subcarriers
        # Published tokens have the antennas outside the subcarriers.
        slot, antenna = block // (subcarriers * antennas), block // subcarriers % antennas
        return (slot * subcarriers + block % subcarriers) * antennas + antenna
