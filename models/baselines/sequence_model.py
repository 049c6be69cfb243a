"""A network that predicts the later part of sequences, as a model that fits beside the masked ones."""

from torch import Tensor, nn

from channels.errors import UserError
from models.baselines.halves import Halves
from models.interface import MaskDraw, PackedBatch, Prediction, PretrainingModel, TokenBatch
from models.layers.losses import token_losses


class Predictor(nn.Module):
    """History to future."""

    def forward(self, history: Tensor, antennas: int) -> Tensor:
        """Steps [B * A, future, features] that follow known ones [B * A, history, features].

        antennas: sequences of each sample A, one after another.
        """
        raise NotImplementedError


class SequenceModel(PretrainingModel):
    """Samples of one scale and one task. task: its name. What is masked does not reach the network at all."""

    def __init__(self, halves: Halves, task: str, predictor: Predictor) -> None:
        super().__init__()
        self.halves, self.task = halves, task
        self.predictor = predictor
        self.register_buffer("masked", halves.masked(), persistent=False)
        self.masked: Tensor

    def forward(self, batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Tensor:
        """Loss sum float32 [1]; see ``PretrainingModel``. Nothing is drawn."""
        losses = token_losses(self._predict_tokens(batch), batch)
        return ((losses * self.masked).sum(dim=1) * batch.task_weights).sum(dim=1)

    def predict(self, batch: TokenBatch | PackedBatch, task: str, seed: int) -> Prediction:
        """The predicted part. Raises UserError for another task."""
        if task != self.task:
            raise UserError(f"it has no task {task!r}", mend=f"it was made for {self.task}")
        values = self._predict_tokens(batch)
        return Prediction(values=values, masked=self.masked.expand(len(values), -1))

    def _predict_tokens(self, batch: TokenBatch | PackedBatch) -> Tensor:
        """Float32 [B, L, 128]."""
        assert isinstance(batch, TokenBatch), "its specification does not pack"
        history = self.halves.cut_history(batch.tokens).to(next(self.predictor.parameters()).dtype)
        return self.halves.place_future(self.predictor(history, self.halves.antennas))
