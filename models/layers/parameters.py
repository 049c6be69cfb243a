"""Counting and casting parameters, and the groups AdamW treats differently."""

from typing import TypedDict

import torch
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


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast in place, but not what a module names in its attribute ``float32``: rates and steps that bfloat16 spoils."""
    for module in model.modules():
        kept = getattr(module, "float32", ())
        for name, parameter in module.named_parameters(recurse=False):
            if name not in kept:
                parameter.data = parameter.data.to(dtype)
