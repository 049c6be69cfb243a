"""Counting parameters, and the groups AdamW treats differently."""

from typing import TypedDict

from torch import nn


class ParameterGroup(TypedDict):
    """One group of ``torch.optim.AdamW``."""

    params: list[nn.Parameter]
    weight_decay: float


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def optimizer_groups(model: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Groups as published: no decay for biases and 1-D parameters (norms), ``weight_decay`` for all others."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
