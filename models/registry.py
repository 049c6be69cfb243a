"""Models by name: ours, and those that installed packages offer. A module is imported only when its model is made.

A package offers a model by an entry point of the group ``wavetrain.models``, its name and the class of its
specification: ``mixer = "my_package.mixer:MixerSpec"``.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, cast

from channels.errors import UserError
from models.interface import ModelSpec, Shape
from models.options import SCALE_OPTIONS, from_options, nearest

SPECS: Mapping[str, str] = MappingProxyType(
    {
        "hetercsi": "models.hetercsi.spec:HeterCsiSpec",
        "wifo": "models.wifo.spec:WifoSpec",
        "wimamba": "models.snapshot.wimamba:WiMambaSpec",
        "lwm": "models.snapshot.lwm:LwmSpec",
        "raw": "models.snapshot.raw:RawSpec",
        "bert4mimo": "models.baselines.bert4mimo:Bert4MimoSpec",
        "lstm": "models.baselines.lstm:LstmSpec",
        "transformer": "models.baselines.transformer:TransformerSpec",
        "llm4cp": "models.baselines.llm4cp:Llm4CpSpec",
    }
)
"""Name to ``module:class`` of the specification, a frozen dataclass whose fields are the model's options."""


def model_names() -> list[str]:
    """Every name ``make_spec`` knows, sorted."""
    return sorted(_known())


def make_spec(name: str, options: Mapping[str, Any]) -> ModelSpec:
    """The specification of a model. Raises UserError for an unknown name or option and for a value out of its type."""
    known = _known()
    if name not in known:
        raise UserError(f"unknown model {name!r}", where="model.name", mend=nearest(name, sorted(known)))
    module, _, attribute = known[name].partition(":")
    try:
        spec = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        mend = "install the package that offers it again"
        raise UserError(f"{known[name]} cannot be imported ({error})", where=f"model {name!r}", mend=mend) from None
    return cast(ModelSpec, from_options(spec, options, where="model.options"))


def scale_options(name: str, options: Mapping[str, Any], shape: Shape) -> dict[str, int]:
    """The scale (T, K, A) as options of a model that is made for one, those that are not given; empty for others."""
    known = {field.name for field in fields(type(make_spec(name, options))) if field.init}  # type: ignore[arg-type]
    scale = dict(zip(SCALE_OPTIONS, shape, strict=True))
    return {option: size for option, size in scale.items() if option in known and options.get(option) is None}


def _known() -> dict[str, str]:
    """Name to ``module:class``; nobody else's model takes the name of one of ours."""
    return {**{point.name: point.value for point in entry_points(group="wavetrain.models")}, **SPECS}
