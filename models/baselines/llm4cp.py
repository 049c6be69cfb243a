"""LLM4CP: a channel's history through two convolutional branches, GPT-2's first six blocks and two linear layers.

One branch sees the features as they are, the other one their inverse Fourier transform (delays, where the features are
subcarriers). Unlike in the public code a sample is normalised by its own mean and deviation and not by those of its
batch, so that its prediction does not depend on the batch; and the transformed features keep real and imaginary parts
apart as the two channels of the convolution.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from channels.errors import UserError
from models.baselines.embedding import StepEmbedding
from models.baselines.gpt2 import Gpt2Blocks, Gpt2Size, check_folder, check_library
from models.baselines.halves import Halves
from models.baselines.sequence_model import Predictor, SequenceModel
from models.baselines.sequence_spec import SequenceSpec, check_dropout, check_heads
from models.interface import Shape
from models.options import EXPORTED

PATCH = 4
"""Steps that one linear layer mixes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Llm4CpSpec(SequenceSpec):
    """gpt2: folder with the weights of GPT-2 small; None draws them, which is another model. layers, width, heads: of
    its blocks. residual_blocks, channels: of each convolutional branch.
    """

    NAME: ClassVar[str] = "llm4cp"
    MULTIPLE: ClassVar[int] = PATCH

    gpt2: str | None = None
    layers: int = 6
    width: int = 768
    heads: int = 12
    residual_blocks: int = 4
    channels: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Raises UserError for an option out of range."""
        SequenceSpec.__post_init__(self)
        self.check_positive("layers", "width", "heads", "residual_blocks", "channels")
        check_heads(self.width, self.heads, published="768 and 12")
        check_dropout(self.dropout, published=0.1)

    @property
    def caveats(self) -> tuple[str, ...]:
        """That GPT-2 knows nothing, where it does not."""
        return () if self.gpt2 is not None else ("GPT-2's weights are random, not pre-trained (model.gpt2 names none)",)

    def build(self, seed: int) -> SequenceModel:
        """The network in float32 on the CPU, drawn from the seed; GPT-2's weights from the folder."""
        halves = self.halves
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            predictor = Llm4CpPredictor(self, halves)
        if self.gpt2 is not None and self.gpt2 != EXPORTED:
            predictor.gpt2.load(Path(self.gpt2))
        return SequenceModel(halves, self.tasks[0], predictor)

    def check(self, device: str) -> None:
        """Raises UserError where transformers or GPT-2's weights are missing."""
        check_library()
        if self.gpt2 == EXPORTED:
            raise UserError("names no folder", where=f"model.gpt2 {EXPORTED}", mend="name that of GPT-2's weights")
        if self.gpt2 is not None:
            check_folder(Path(self.gpt2))

    def notes(self, device: str, packed: bool) -> tuple[str, ...]:
        """Where GPT-2's weights are from."""
        where = "in those that the run begins with" if self.gpt2 == EXPORTED else f"those of {self.gpt2}"
        return self.caveats or (f"GPT-2's weights are {where}",)

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of one sample: branches, embedding, GPT-2, output."""
        self._check(shape, variant)
        halves, width, channels = self.halves, self.width, self.channels
        length, features = halves.history, halves.features
        pixels = length * features // 2
        branch = pixels * 9 * (4 * channels + 2 * self.residual_blocks * channels**2) + length * features * PATCH
        # Of the attention over channels: two maps of two pooled vectors.
        branch += self.residual_blocks * 4 * channels**2
        block = 12 * length * width**2 + 2 * length**2 * width
        ends = 3 * features * width * length + length**2 * width
        ends += length * width * features + length * halves.future * features
        return 2.0 * halves.antennas * (2 * branch + ends + self.layers * block)


class Llm4CpPredictor(Predictor):
    """The network on sequences of one length."""

    def __init__(self, spec: Llm4CpSpec, halves: Halves) -> None:
        super().__init__()
        # One layer for both branches, as published.
        self.mix_patch = nn.Linear(PATCH, PATCH)
        self.plain_branch = _branch(spec.channels, spec.residual_blocks)
        self.delay_branch = _branch(spec.channels, spec.residual_blocks)
        self.embedding = StepEmbedding(halves.features, spec.width, spec.dropout)
        self.mix_steps = nn.Linear(halves.history, halves.history)
        self.gpt2 = Gpt2Blocks(Gpt2Size(spec.layers, spec.width, spec.heads, spec.dropout))
        self.to_features = nn.Linear(spec.width, halves.features)
        self.to_future = nn.Linear(halves.history, halves.future)

    def forward(self, history: Tensor, antennas: int) -> Tensor:
        """See ``Predictor``."""
        samples = history.float().reshape(-1, antennas * history.shape[1] * history.shape[2])
        mean, spread = (
            part.repeat_interleave(antennas)[:, None, None].to(history.dtype)
            for part in (samples.mean(dim=1), samples.std(dim=1).clamp(min=1e-6))
        )
        steps = (history - mean) / spread
        # [n, parts, length, features / 2]: an image of two channels.
        image = torch.stack([steps[:, :, 0::2], steps[:, :, 1::2]], dim=1)
        mixed = self.plain_branch(self._mix_patches(image)) + self.delay_branch(self._mix_patches(_delays(image)))
        states = self.embedding(mixed.permute(0, 2, 3, 1).flatten(2))
        states = self.gpt2(_along_steps(self.mix_steps, states))
        return _along_steps(self.to_future, self.to_features(states)) * spread + mean

    def _mix_patches(self, image: Tensor) -> Tensor:
        """Every four steps of [n, 2, length, features / 2] mixed among themselves."""
        patches = image.view(*image.shape[:2], -1, PATCH, image.shape[3]).transpose(3, 4)
        return cast(Tensor, self.mix_patch(patches)).transpose(3, 4).flatten(2, 3)


def _delays(image: Tensor) -> Tensor:
    """Inverse Fourier transform [n, 2, length, K] over the last axis; the parts are axis 1."""
    real, imaginary = image.float().unbind(1)
    transformed = torch.fft.ifft(torch.complex(real, imaginary), dim=-1)
    return torch.stack([transformed.real, transformed.imag], dim=1).to(image.dtype)


def _along_steps(layer: nn.Module, states: Tensor) -> Tensor:
    """A linear layer over axis 1 of [n, length, width]."""
    return cast(Tensor, layer(states.transpose(1, 2))).transpose(1, 2)


def _branch(channels: int, blocks: int) -> nn.Sequential:
    """Convolutions of an image of two channels to another one."""
    residual = [ResidualBlock(channels) for _ in range(blocks)]
    return nn.Sequential(nn.Conv2d(2, channels, 3, padding=1), *residual, nn.Conv2d(channels, 2, 3, padding=1))


class ResidualBlock(nn.Module):
    """Two convolutions, their channels weighted by what is in them (squeeze and excitation, by mean and by maximum)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.squeeze = nn.Linear(channels, channels, bias=False)
        self.excite = nn.Linear(channels, channels, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """[n, channels, length, features] of the same."""
        seen = self.second(self.first(image).relu())
        pooled = torch.stack([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3))])
        weights = self.excite(self.squeeze(pooled).relu()).sum(dim=0).sigmoid()
        return cast(Tensor, image + seen * weights[:, :, None, None])
