"""A trained model for people who have channels, not tokens: channels in, their masked part predicted out."""

import numpy as np
import torch
from torch import Tensor, nn

from channels.errors import UserError
from models.elements import find_elements
from models.interface import EvaluationTask, ModelSpec, PretrainingModel, Shape, collate

FORECAST = "time"


class ChannelModel(nn.Module):
    """Wraps a pre-training model. ``task`` may be set to any of ``tasks``; it starts as the forecast of later slots
    where the model has one, else as the model's first task. ``seed`` draws random masks.
    """

    def __init__(self, spec: ModelSpec, network: PretrainingModel) -> None:
        super().__init__()
        self.spec, self.network = spec, network
        self.task = FORECAST if FORECAST in self.tasks else self.tasks[0]
        self.seed = 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """What may be predicted."""
        return tuple(task.name for task in self.spec.evaluation_tasks)

    def forward(self, channels: Tensor) -> Tensor:
        """Channels float32 [n, T, K, A, 2] (real, imaginary; any power) with the masked part as predicted.

        Each training sample (a channel, or its snapshots one by one) is brought to unit power, as in training.

        Raises:
            UserError: another number of axes, an unknown task, power zero, NaN or infinity.
        """
        if channels.ndim != 5 or channels.shape[-1] != 2:
            raise UserError(
                f"channels of shape {tuple(channels.shape)}", mend="expected [n, T, K, A, 2]: real, imaginary"
            )
        samples = channels.reshape(-1, *self._sample_shape(channels), 2)
        scale = _root_power(samples)
        return (self._complete(samples / scale) * scale).reshape(channels.shape)

    def _complete(self, samples: Tensor) -> Tensor:
        task = self._task()
        values = torch.view_as_complex(samples.contiguous()).cpu().numpy()
        tokens = self.spec.tokenise(values, task.variant)
        count = len(values)
        batch = collate([tokens], np.arange(count), np.ones(count, np.float32), task.variant).to(samples.device)
        prediction = self.network.predict(batch, task.name, self.seed)
        mixed = torch.where(prediction.masked[..., None], prediction.values, batch.tokens).flatten(1)
        shape: Shape = (samples.shape[1], samples.shape[2], samples.shape[3])
        elements = find_elements(self.spec, shape, task.variant, samples.device)
        if elements is None:
            what = f"the tokens of model {self.spec.name} are more than the numbers of a channel in another order"
            raise UserError(what, mend="call its network with tokens")
        return mixed[:, elements.index.flatten()].reshape(samples.shape)

    def _task(self) -> EvaluationTask:
        found = [task for task in self.spec.evaluation_tasks if task.name == self.task]
        if not found:
            raise UserError(f"no task {self.task!r}", mend=f"it has {', '.join(self.tasks)}")
        return found[0]

    def _sample_shape(self, channels: Tensor) -> Shape:
        """Scale of one training sample: that of a channel, or of one of its snapshots."""
        slots, subcarriers, antennas = channels.shape[1:4]
        samples = self.spec.samples_per_stored((slots, subcarriers, antennas))
        return slots // samples, subcarriers, antennas


def _root_power(samples: Tensor) -> Tensor:
    """Root of the mean power [n, 1, 1, 1, 1] of samples [n, T, K, A, 2]."""
    power = samples.square().sum(dim=-1).mean(dim=(1, 2, 3))
    bad = ~(power.isfinite() & (power > 0))
    if bool(bad.any()):
        first = int(bad.long().argmax())
        what = "has no power" if float(power[first]) == 0 else "holds NaN, infinity or values too large"
        kind = "a channel" if len(samples) == 1 else f"training sample {first} of {len(samples)}"
        raise UserError(f"{kind} {what}", mend="leave it out")
    return power.sqrt()[:, None, None, None, None]
