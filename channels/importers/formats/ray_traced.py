"""Parameters of ray-traced users beside a ``manifest.json`` that describes their scenes.

``<scene>.npz`` has ``H`` (users, antennas, subcarriers, re/im) and labels; the manifest has for each scene ``fc`` in
Hz, the first of them that of ``H``, and its axes in words, such as "1x32 ULA, subcarrier (480 kHz spacing)".
"""

import re
from pathlib import Path
from typing import Any

from channels.files import is_file, parse_json
from channels.importers.scalars import CARRIER_HZ

MANIFEST = "manifest.json"
_MOST_BYTES = 2**20
_SPACING = re.compile(r"(?P<khz>\d+(?:\.\d+)?) ?kHz spacing", re.IGNORECASE)
_ARRAY = re.compile(r"(?P<rows>\d{1,4}) ?x ?(?P<cols>\d{1,4}) (?:ULA|UPA)", re.IGNORECASE)


def scene_parameters(file: Path) -> dict[str, Any]:
    """What a manifest beside a file says of it in the units of ChannelSpec; nothing where there is none."""
    manifest = file.parent / MANIFEST
    if not is_file(manifest) or manifest.stat().st_size > _MOST_BYTES:
        return {}
    try:
        scene = parse_json(manifest.read_bytes())[file.stem]
        carriers, words = scene["fc"], str(scene["axes"])
        carrier = float(carriers[0] if isinstance(carriers, list) else carriers)
    # Any other JSON is no description of scenes; one that cannot be read is named as left out.
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return {}
    found: dict[str, Any] = {"fc_ghz": carrier / 1e9} if carrier >= CARRIER_HZ else {}
    if spacing := _SPACING.search(words):
        found["subcarrier_spacing_khz"] = float(spacing["khz"])
    if array := _ARRAY.search(words):
        found |= {"rows": int(array["rows"]), "cols": int(array["cols"])}
    if isinstance(scene.get("scene"), str) and scene["scene"]:
        found["scenario"] = scene["scene"]
    return found
