"""``config.mat`` of the HeterCSI sets: carrier, grid, array and scenario, in Hz and seconds."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from channels.errors import UserError, reason_of
from channels.importers.files.contents import kind_of
from channels.importers.files.mat5 import read_variables
from channels.importers.scalars import CARRIER_HZ, SPACING_HZ, check_hertz

CONFIG = "config.mat"
CONFIG_BYTES = 2**20
_FIELDS = ("fc", "K", "delta_f", "T", "delta_t", "UPA", "scenario")
_SCENARIO = re.compile(r"3GPP_38\.901_(?P<scenario>[A-Za-z0-9]+)_(?P<los>N?LOS)", re.IGNORECASE)
_MEND = "mend it, or take it away and give the parameters with --spec FILE"


def read_config(file: Path) -> dict[str, Any]:
    """A ``config.mat`` (MATLAB 5 or 7.3) in the units of ChannelSpec. Raises UserError for a missing or wrong field."""
    content = _variables(file)
    missing = [name for name in _FIELDS if name not in content]
    if missing:
        raise UserError(f"it lacks {', '.join(missing)}", where=str(file), mend=_MEND)
    try:
        number = {name: float(np.asarray(content[name]).item()) for name in ("fc", "K", "delta_f", "T", "delta_t")}
        rows, cols = (float(size) for size in np.ravel(content["UPA"]).tolist())
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"not a readable config.mat ({error})", where=str(file), mend=_MEND) from error
    check_hertz("fc", number["fc"], CARRIER_HZ, str(file))
    check_hertz("delta_f", number["delta_f"], SPACING_HZ, str(file))
    words = _SCENARIO.fullmatch(str(content["scenario"]).strip())
    if words is None:
        what = f"scenario {str(content['scenario'])[:80]!r} is not of the form 3GPP_38.901_<scenario>_<LOS|NLOS>"
        raise UserError(what, where=str(file), mend=_MEND)
    whole = {"subcarriers": number["K"], "slots": number["T"], "rows": rows, "cols": cols}
    return {
        "fc_ghz": number["fc"] / 1e9,
        "subcarrier_spacing_khz": number["delta_f"] / 1e3,
        "slot_ms": number["delta_t"] * 1e3,
        "scenario": words["scenario"],
        "los": words["los"].upper() == "LOS",
        **{key: int(value) if value.is_integer() else value for key, value in whole.items()},
    }


def _variables(file: Path) -> dict[str, Any]:
    try:
        if kind_of(file) == "hdf5":
            from channels.importers.files.hdf5 import hdf5_values

            return hdf5_values(file, _FIELDS)
        return read_variables(file, _FIELDS, CONFIG_BYTES)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable config.mat ({reason_of(error)})", where=str(file), mend=_MEND) from error
