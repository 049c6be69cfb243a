"""Transformer: sequence to sequence with full attention in the skeleton of Informer, as HeterCSI's code has it.

The encoder halves its sequence between layers. The decoder gets the later half of the history and zeros in place of
what it is to predict, all at once.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from channels.errors import UserError
from models.baselines.embedding import StepEmbedding
from models.baselines.halves import Halves
from models.baselines.sequence_model import Predictor, SequenceModel
from models.baselines.sequence_spec import SequenceSpec, check_dropout, check_heads
from models.interface import Shape

DistilNorm = Literal["layer", "batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerSpec(SequenceSpec):
    """Sizes are those of the public code. distil_norm: after the convolution between two encoder layers; ``batch`` is
    the published one, whose predictions depend on what else is in a batch while it trains: it can be scored only.
    """

    NAME: ClassVar[str] = "transformer"

    width: int = 512
    heads: int = 8
    encoder_layers: int = 3
    decoder_layers: int = 2
    feedforward: int = 512
    dropout: float = 0.0
    distil_norm: DistilNorm = "layer"

    def __post_init__(self) -> None:
        """Raises UserError for an option out of range."""
        SequenceSpec.__post_init__(self)
        self.check_positive("width", "heads", "encoder_layers", "decoder_layers", "feedforward")
        check_heads(self.width, self.heads, published="512 and 8")
        check_dropout(self.dropout, published=0.0)

    def build(self, seed: int) -> SequenceModel:
        """The network in float32 on the CPU, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return SequenceModel(self.halves, self.tasks[0], TransformerPredictor(self))

    def check(self, device: str) -> None:
        """Raises UserError for the batch norm, whose running means no checkpoint holds."""
        if self.distil_norm == "batch":
            what = "its batch norm would make a sample's error depend on the batch, the ranks and the micro-batch"
            raise UserError(what, where="model.distil_norm batch", mend="train with layer")

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of one sample: embeddings, encoder, decoder, head."""
        self._check(shape, variant)
        halves, width = self.halves, self.width
        decoded = halves.history // 2 + halves.future
        macs = float(3 * halves.features * width * (halves.history + decoded))
        length = halves.history
        for layer in range(self.encoder_layers):
            macs += _attention_macs(length, length, width) + 2 * length * width * self.feedforward
            if layer < self.encoder_layers - 1:
                macs += 3 * (length + 2) * width * width
                length = distilled(length)
        decoder_layer = _attention_macs(decoded, decoded, width) + _attention_macs(decoded, length, width)
        macs += self.decoder_layers * (decoder_layer + 2 * decoded * width * self.feedforward)
        return 2.0 * halves.antennas * (macs + halves.future * width * halves.features)


def _attention_macs(queries: int, keys: int, width: int) -> int:
    """Four projections, scores and mixing."""
    return 2 * (queries + keys) * width * width + 2 * queries * keys * width


def distilled(length: int) -> int:
    """Steps that ``Distil`` leaves of so many."""
    return (length + 3) // 2


class TransformerPredictor(Predictor):
    """Encoder over the history, decoder over its later half and the future."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        halves: Halves = spec.halves
        self.future = halves.future
        self.history_embedding = StepEmbedding(halves.features, spec.width, spec.dropout)
        self.future_embedding = StepEmbedding(halves.features, spec.width, spec.dropout)
        sizes = (spec.width, spec.heads, spec.feedforward, spec.dropout, "gelu")
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(*sizes, batch_first=True) for _ in range(spec.encoder_layers)
        )
        self.distillations = nn.ModuleList(Distil(spec.width, spec.distil_norm) for _ in self.encoder[1:])
        self.encoder_norm = nn.LayerNorm(spec.width)
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(*sizes, batch_first=True) for _ in range(spec.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(spec.width)
        self.head = nn.Linear(spec.width, halves.features)

    def forward(self, history: Tensor, antennas: int) -> Tensor:
        """See ``Predictor``."""
        start = history[:, history.shape[1] - history.shape[1] // 2 :]
        return self.decode(history, nn.functional.pad(start, (0, 0, 0, self.future)))

    def decode(self, history: Tensor, given: Tensor) -> Tensor:
        """The last ``future`` steps of the decoder's output. given: its input [n, length, features]."""
        states = self.history_embedding(history)
        for number, layer in enumerate(self.encoder):
            states = layer(states)
            if number < len(self.distillations):
                states = self.distillations[number](states)
        states = self.encoder_norm(states)
        decoded = self.future_embedding(given)
        length = decoded.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=decoded.device).triu(1)
        for layer in self.decoder:
            decoded = layer(decoded, states, tgt_mask=later)
        return cast(Tensor, self.head(self.decoder_norm(decoded[:, -self.future :])))


class Distil(nn.Module):
    """Half as many steps: convolution over three, norm, ELU, the largest of three at every other step (Informer)."""

    def __init__(self, width: int, norm: DistilNorm) -> None:
        super().__init__()
        # Two steps are added at either end, as published; the original Informer adds one.
        self.convolution = nn.Conv1d(width, width, kernel_size=3, padding=2, padding_mode="circular")
        self.norm = nn.LayerNorm(width) if norm == "layer" else nn.BatchNorm1d(width)
        self.pool = nn.MaxPool1d(kernel_size=3, stride=2, padding=1)

    def forward(self, states: Tensor) -> Tensor:
        """[n, length', width] of states [n, length, width]."""
        mixed = self.convolution(states.transpose(1, 2))
        if isinstance(self.norm, nn.LayerNorm):
            mixed = self.norm(mixed.transpose(1, 2)).transpose(1, 2)
        else:
            mixed = self.norm(mixed)
        return cast(Tensor, self.pool(nn.functional.elu(mixed)).transpose(1, 2))
