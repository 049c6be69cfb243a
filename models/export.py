"""A trained model as two files: ``model.safetensors`` (weights) and ``config.json`` (what ``make_spec`` needs).

The weights carry the same configuration in their header, so that a pair of which one file was exchanged is noticed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from channels.errors import UserError
from channels.files import write_atomically
from models.interface import ModelSpec, PretrainingModel
from models.options import exported_options
from models.registry import make_spec

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(folder: Path, name: str, options: Mapping[str, Any], model: nn.Module) -> None:
    """Write a model made by ``make_spec(name, options)``; a file is either its old or its new self at any time.

    Options of the machine are left out, so that a model trained on a GPU is scored and used on a CPU; so are folders
    of weights that it began with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _encode(name, exported_options(name, options))
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(tensors, metadata={"config": config}))
    write_atomically(folder / CONFIG, config.encode())


def is_export(folder: Path) -> bool:
    """Whether a folder holds an exported model."""
    return (folder / CONFIG).is_file()


def read_spec(folder: Path) -> ModelSpec:
    """The specification of an exported model; its weights are not read.

    Raises UserError if the configuration is missing or damaged.
    """
    return make_spec(*_read_config(folder))


def load_model(folder: Path) -> tuple[ModelSpec, PretrainingModel]:
    """The specification and the network, on the CPU, in the exported precision.

    Raises UserError if a file is missing or damaged, or the weights are of another configuration.
    """
    name, options = _read_config(folder)
    spec = make_spec(name, options)
    model = spec.build(seed=0)
    tensors = _read_weights(folder / WEIGHTS, _encode(name, options))
    differing = _differing(model, tensors)
    if differing:
        what = f"{len(differing)} tensors do not fit {name} {dict(options)}, first {differing[0]}"
        raise UserError(what, where=str(folder / WEIGHTS), mend="the checkpoint is of another configuration")
    model.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    return spec, model


def load_weights(folder: Path, name: str, model: nn.Module) -> None:
    """Put the weights of an exported model into a network in float32 of the same name and shapes, which may have other
    options beside.

    Raises:
        UserError: a file is missing or damaged, another model, or tensors of other shapes.
    """
    found, options = _read_config(folder)
    if found != name:
        raise UserError(
            f"holds a {found}, not a {name}", where=str(folder), mend="begin with weights of the same model"
        )
    tensors = _read_weights(folder / WEIGHTS, _encode(found, options))
    differing = _differing(model, tensors)
    if differing:
        what = f"{len(differing)} tensors are of other shapes than the job's {name} has, first {differing[0]}"
        mend = f"it was exported with {' '.join(json.dumps(options).split())}"
        raise UserError(what, where=str(folder / WEIGHTS), mend=mend)
    model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})


def _differing(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that a model has and an export has not, or in another shape, or the other way round."""
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    differ = (key for key in wanted | dict(tensors) if key not in tensors or tensors[key].shape != wanted.get(key))
    return [repr(key) for key in sorted(differ)]


def _encode(name: str, options: Mapping[str, Any]) -> str:
    return json.dumps({"model": name, "options": dict(options)}, indent=2, sort_keys=True) + "\n"


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
        return config["model"], config["options"]
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path), mend="name an exported model") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("is not the configuration of an exported model", where=str(path)) from error


def _read_weights(path: Path, config: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("config")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), mend="export the model again") from error
    if written != config:
        mend = f"it was exported with {' '.join((written or 'none').split())}"
        raise UserError(f"the weights are of another configuration than {CONFIG}", where=str(path), mend=mend)
    tensors: dict[str, Tensor] = load_file(path)
    return tensors
