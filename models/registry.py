"""Models by name. A model's module is imported only when the model is asked for."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, cast

from channels.errors import UserError
from models.interface import ModelSpec
from models.options import from_options, nearest

SPECS: Mapping[str, str] = MappingProxyType(
    {
        "hetercsi": "models.hetercsi:HeterCsiSpec",
        "wimamba": "models.wimamba:WiMambaSpec",
        "lwm": "models.lwm:LwmSpec",
        "raw": "models.raw:RawSpec",
    }
)
"""Name to ``module:class`` of the specification, a frozen dataclass whose fields are the model's options."""


def model_names() -> list[str]:
    """Every name ``make_spec`` knows, sorted."""
    return sorted(SPECS)


def make_spec(name: str, options: Mapping[str, Any]) -> ModelSpec:
    """The specification of a model. Raises UserError for an unknown name or option and for a value out of its type."""
    if name not in SPECS:
        raise UserError(f"unknown model {name!r}", where="model.name", mend=nearest(name, model_names()))
    module, _, attribute = SPECS[name].partition(":")
    spec = getattr(import_module(module), attribute)
    return cast(ModelSpec, from_options(spec, options, where="model.options"))
