"""A released checkpoint becomes an export: read, translated, checked, written."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from channels.errors import UserError
from models.export import save_model
from models.interface import PretrainingModel
from models.options import nearest
from models.registry import make_spec
from models.released import autoencoders, snapshots
from models.released.checkpoint import read_weights
from models.released.rules import Rule, translate


@dataclass(frozen=True, slots=True)
class Family:
    """How checkpoints of one network are read.

    sentinel: a tensor that only this network has. options: of the model, by the weights and a size that may be given.
    rules: for each of our tensors, given the model's specification and the weights. unused: beginnings of the names of
    tensors that the published code does not read.
    """

    sentinel: str
    options: Callable[[Mapping[str, Tensor], str | None], dict[str, Any]]
    rules: Callable[[Any, Mapping[str, Tensor]], Sequence[Rule]]
    unused: tuple[str, ...] = ()


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "hetercsi": Family(
            autoencoders.SENTINEL["hetercsi"], autoencoders.hetercsi_options, autoencoders.hetercsi_rules
        ),
        "wifo": Family(
            autoencoders.SENTINEL["wifo"], autoencoders.wifo_options, autoencoders.wifo_rules, autoencoders.WIFO_UNUSED
        ),
        "wimamba": Family(snapshots.SENTINEL["wimamba"], snapshots.wimamba_options, snapshots.wimamba_rules),
        "lwm": Family(snapshots.SENTINEL["lwm"], snapshots.lwm_options, snapshots.lwm_rules),
    }
)


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """A network with released weights; ``make_spec(name, options)`` is its specification."""

    name: str
    options: dict[str, Any]
    network: PretrainingModel


def load_released(path: Path, name: str, size: str | None = None) -> ReleasedModel:
    """The network of a released checkpoint, in float32 on the CPU.

    name: ``hetercsi``, ``wifo``, ``wimamba`` or ``lwm``. size: where it is not to be found by the shapes.

    Raises:
        UserError: another name, a file that cannot be read, tensors that do not fit by name or shape.
    """
    if name not in FAMILIES:
        raise UserError(f"no released network {name!r}", where="--as", mend=nearest(name, list(FAMILIES)))
    weights = read_weights(path)
    _check_family(weights, name, path)
    try:
        return _translated(weights, name, size)
    except UserError as error:
        raise UserError(str(error), where=str(path)) from None


def _check_family(weights: Mapping[str, Tensor], name: str, path: Path) -> None:
    if FAMILIES[name].sentinel in weights:
        return
    others = [other for other, family in FAMILIES.items() if family.sentinel in weights]
    what = f"has no {FAMILIES[name].sentinel!r}, so it is not {name}"
    raise UserError(what, where=str(path), mend=f"it is {others[0]}: --as {others[0]}" if others else None)


def _translated(weights: Mapping[str, Tensor], name: str, size: str | None) -> ReleasedModel:
    family = FAMILIES[name]
    weights = {key: weight for key, weight in weights.items() if not key.startswith(family.unused)}
    options = family.options(weights, size)
    spec = make_spec(name, options)
    network = spec.build(seed=0)
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    network.load_state_dict(
        translate(weights, family.rules(spec, weights), shapes, f"{name} of size {options['size']}")
    )
    return ReleasedModel(name, options, network)


def import_released(path: Path, name: str, size: str | None, out: Path) -> ReleasedModel:
    """Write a released checkpoint as an export into a folder that is not there yet, or is empty.

    Raises:
        UserError: as ``load_released``, or a folder with something in it.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is there already", where=str(out), mend="give another --out, or remove it")
    model = load_released(path, name, size)
    unfinished = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_model(unfinished, model.name, model.options, model.network)
    unfinished.replace(out)
    return model
