"""Counting, freezing and casting parameters, and the groups AdamW treats differently."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import nn

from channels.errors import UserError
from models.interface import PretrainingModel


class ParameterGroup(TypedDict):
    """One group of ``torch.optim.AdamW``. lr_scale: factor of the learning rate."""

    params: list[nn.Parameter]
    weight_decay: float
    lr_scale: float


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def freeze(model: nn.Module, prefixes: Iterable[str]) -> None:
    """Take the parameters of some modules out of the training. prefixes: names of modules or parameters.

    Raises:
        UserError: no parameter has such a name, or none is left to train.
    """
    parameters = dict(model.named_parameters())
    for prefix in prefixes:
        found = [parameter for name, parameter in parameters.items() if _is_under(name, prefix)]
        if not found:
            known = dict.fromkeys(name.partition(".")[0] for name in parameters)
            mend = f"it has {', '.join(known)}, and parts of them, down to {next(reversed(parameters))}"
            raise UserError(f"the model has no parameters {prefix!r}", where="train.freeze", mend=mend)
        for parameter in found:
            parameter.requires_grad_(False)
    if not count_parameters(model):
        raise UserError("nothing is left to train", where="train.freeze", mend="name fewer parts")


def numbered(prefix: str, count: int) -> tuple[tuple[str, ...], ...]:
    """Layers of one member of a module list each, for ``PretrainingModel.layers``."""
    return tuple((f"{prefix}.{number}",) for number in range(count))


def layer_scales(model: PretrainingModel, decay: float) -> dict[str, float]:
    """Factor of the learning rate by name of parameter: 1 in the last layer, times ``decay`` with each one before it.

    Raises:
        UserError: the model does not say to which layer a parameter belongs.
    """
    layers = model.layers()
    scales = {}
    for name, _ in model.named_parameters():
        place = next((at for at, layer in enumerate(layers) if any(_is_under(name, one) for one in layer)), None)
        if place is None:
            what = f"the model does not say in which layer {name!r} is"
            raise UserError(what, where="train.layer_lr_decay", mend="leave it out, or extend the model's layers()")
        scales[name] = decay ** (len(layers) - 1 - place)
    return scales


def optimizer_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[ParameterGroup]:
    """Groups as published: no decay for biases and 1-D parameters (norms), ``weight_decay`` for all others; with a
    ``layer_decay`` below 1 two of them for each layer. Frozen parameters are in none. Raises as ``layer_scales``.
    """
    scales: dict[str, float] = {}
    if layer_decay != 1:
        assert isinstance(model, PretrainingModel)
        scales = layer_scales(model, layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for scale in sorted(set(scales.values()) or {1.0}):
        groups |= {(scale, True): [], (scale, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or name.endswith(".bias")
            groups[scales.get(name, 1.0), not plain].append(parameter)
    return [
        {"params": held, "weight_decay": weight_decay if decayed else 0.0, "lr_scale": scale}
        for (scale, decayed), held in groups.items()
        if held
    ]


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast in place, but not what a module names in its attribute ``float32``: rates and steps that bfloat16 spoils."""
    for module in model.modules():
        kept = getattr(module, "float32", ())
        for name, parameter in module.named_parameters(recurse=False):
            if name not in kept:
                parameter.data = parameter.data.to(dtype)
