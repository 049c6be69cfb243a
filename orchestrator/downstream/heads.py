"""Small networks on features: how they are built, and how one is trained."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.downstream.task import Task, Training

Batch = Callable[[Tensor], Tensor]
"""From numbers of training samples, int64 [B], to something of them."""


def build_head(width: int, hidden: Iterable[int], outputs: int, training: Training) -> nn.Sequential:
    """Hidden layers with batch norm, ReLU and dropout as the training says, then a linear layer."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers.append(nn.Linear(width, units))
        if training.batch_norm:
            layers.append(nn.BatchNorm1d(units))
        layers.append(nn.ReLU())
        if training.dropout:
            layers.append(nn.Dropout(training.dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


@dataclass(frozen=True, slots=True)
class Scaling:
    """Numbers to mean 0 and deviation 1, by those of the training samples: float32 [width] each."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> "Scaling":
        """Of rows [n, width]; a number that is the same in all is only shifted."""
        deviation = rows.std(dim=0, correction=0)
        return cls(rows.mean(dim=0), torch.where(deviation > 1e-8 * rows.abs().amax(dim=0), deviation, 1.0))

    def apply(self, rows: Tensor) -> Tensor:
        """To mean 0 and deviation 1."""
        return (rows - self.mean) / self.deviation

    def undo(self, rows: Tensor) -> Tensor:
        """Back."""
        return rows * self.deviation + self.mean


def fit(model: nn.Module, count: int, loss_of: Batch, training: Training, seed: int) -> None:
    """Train what of a model has gradients, on ``count`` samples in an order drawn from the seed; the model is in
    training mode.

    loss_of: the mean loss of some samples. The batches of an epoch are of about equal size.
    """
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(wanted, lr=training.lr, fused=True)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(training.epochs):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * training.lr_factor ** (epoch // training.lr_every)
        pieces = -(-count // training.batch)
        for batch in torch.randperm(count, generator=order).tensor_split(pieces):
            optimizer.zero_grad()
            loss_of(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def train_head(
    task: Task, features: Tensor, targets: NDArray[Any], outputs: int, tested: Tensor, seed: int
) -> NDArray[np.float64]:
    """Outputs float64 [m, outputs] of a head for the tested features [m, width].

    It is trained on features float32 [n, width] and targets int64 [n], or float32 [n, outputs]; both are brought to
    mean 0 and deviation 1 by those training samples. The same arguments give the same outputs.
    """
    scaling = Scaling.of(features)
    inputs = scaling.apply(features)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = build_head(features.shape[1], task.hidden, outputs, task.training).train()
        if task.is_classification:
            labels = torch.from_numpy(targets)
            fit(head, len(inputs), lambda rows: functional.cross_entropy(head(inputs[rows]), labels[rows]),
                task.training, seed)  # fmt: skip
            return predict(head, scaling.apply(tested))
        numbers = torch.from_numpy(np.asarray(targets, np.float32))
        scale = Scaling.of(numbers)
        wanted = scale.apply(numbers)
        fit(head, len(inputs), lambda rows: functional.mse_loss(head(inputs[rows]), wanted[rows]), task.training, seed)
        return scale.undo(torch.from_numpy(predict(head, scaling.apply(tested)))).numpy()


def predict(head: nn.Module, inputs: Tensor) -> NDArray[np.float64]:
    """Outputs of a head in evaluation mode."""
    head.eval()
    with torch.inference_mode():
        found: NDArray[np.float64] = head(inputs).double().numpy()
    return found
