"""LSTM: step by step, its own output is its next input (two layers in the papers' text, four in HeterCSI's code)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.baselines.sequence_model import Predictor, SequenceModel
from models.baselines.sequence_spec import SequenceSpec
from models.interface import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class LstmSpec(SequenceSpec):
    """layers: 2 as in the text, 4 as in the public code. The state is twice as wide as a step."""

    NAME: ClassVar[str] = "lstm"

    layers: int = 2

    def __post_init__(self) -> None:
        """Raises UserError for an option out of range."""
        SequenceSpec.__post_init__(self)
        self.check_positive("layers")

    def build(self, seed: int) -> SequenceModel:
        """The network in float32 on the CPU, drawn from the seed."""
        halves = self.halves
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return SequenceModel(halves, self.tasks[0], LstmPredictor(halves.features, halves.future, self.layers))

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of one sample: every step but the last predicted one goes in, every predicted one comes out."""
        self._check(shape, variant)
        halves = self.halves
        square = halves.features**2
        # Four gates of width 2f: of f and 2f inputs in the first layer, of 2f and 2f in the others.
        a_step = square * (1 + 24 + 32 * (self.layers - 1))
        return 2.0 * halves.antennas * ((halves.size - 1) * a_step + halves.future * 2 * square)


class LstmPredictor(Predictor):
    """Linear, LSTM and linear layer around steps of ``features`` numbers."""

    def __init__(self, features: int, future: int, layers: int) -> None:
        super().__init__()
        self.future = future
        self.encoder = nn.Linear(features, features)
        self.lstm = nn.LSTM(features, 2 * features, layers, batch_first=True)
        self.decoder = nn.Linear(2 * features, features)

    def forward(self, history: Tensor, antennas: int) -> Tensor:
        """See ``Predictor``."""
        output, state = self.lstm(self.encoder(history))
        steps = [self.decoder(output[:, -1:])]
        while len(steps) < self.future:
            output, state = self.lstm(self.encoder(steps[-1]), state)
            steps.append(self.decoder(output))
        return torch.cat(steps, dim=1)
