"""Names of arrays: which hold channels, which labels, which two are the parts of one, and which split they are of."""

import re
from collections.abc import Iterable

from channels.importers.files.arrays import StoredArray, join_parts

_PARTS = re.compile(r"(?<![a-z])(real|imag|imaginary|re|im|r|i)(?![a-z])", re.IGNORECASE)
_CAMEL = re.compile(r"(Real|Imag|Re|Im)(?![a-z])|(?<=[a-z])(real|imag)$|(?<=[A-Z])[ri]$")
_IMAGINARY = {"real": "imag", "re": "im", "r": "i"}
_SPLIT = re.compile(r"(?<![a-z])(?P<split>train|training|val|valid|validation|test|testing)(?![a-z])", re.IGNORECASE)
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_CHANNEL = re.compile(r"(h|hf|ht|x|cfr|csi|channels?|chan|chn|h_?est|data)(_?(dl|ul|freq|mat|data))*", re.IGNORECASE)
_GENERIC = re.compile(r"(h|x|ht|csi|channels?|data|dataset|array|arrays|samples|csi_data|tensor)?", re.IGNORECASE)
_LABEL = re.compile(r"(^|_)(y|label|labels|target|targets|gt|ground_truth|class|classes)($|_)", re.IGNORECASE)


def join_pairs(arrays: Iterable[StoredArray]) -> list[StoredArray]:
    """The arrays, of which two real ones of one shape called ``H_real`` and ``H_imag``, or alike, are made complex."""
    found = list(arrays)
    by_key = {array.key: array for array in found}
    for array in list(found):
        partner = by_key.get(_imaginary_key(array.key) or "")
        if partner is None or array.shape != partner.shape or array.is_complex or partner.is_complex:
            continue
        if array.dtype.kind == "b" or len(array.shape) < 2:
            continue
        found[found.index(array)] = join_parts(_without_part(array.key), array, partner)
        found.remove(partner)
    return found


def _imaginary_key(key: str) -> str | None:
    """What the imaginary part is called where this is the name of the real one."""
    for pattern in (_PARTS, _CAMEL):
        for match in reversed(list(pattern.finditer(key))):
            word = match.group()
            other = _IMAGINARY.get(word.lower())
            if other:
                other = other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
                return key[: match.start()] + other + key[match.end() :]
    return None


def _without_part(key: str) -> str:
    for pattern in (_PARTS, _CAMEL):
        for match in reversed(list(pattern.finditer(key))):
            if match.group().lower() in _IMAGINARY:
                return (key[: match.start()] + key[match.end() :]).strip("_-./ ") or "channels"
    return key


def split_in(name: str) -> tuple[str | None, str]:
    """(split, rest) of a name such as ``H_train`` or ``test_data``; (None, name) where it says none."""
    matches = list(_SPLIT.finditer(name.replace("_", "-")))
    if len(matches) != 1:
        return None, name
    match = matches[0]
    word = match["split"].lower()
    before, after = name[: match.start()].rstrip("_-. /"), name[match.end() :].lstrip("_-. /")
    return _SPLITS.get(word, word), "_".join(part for part in (before, after) if part)


def means_channel(key: str) -> bool:
    """Whether a name is a usual one for channels, its split put aside."""
    name = split_in(key.rpartition("/")[2])[1]
    return bool(_CHANNEL.fullmatch(name)) or name == ""


def means_label(key: str) -> bool:
    """Whether a name is a usual one for labels."""
    return bool(_LABEL.search(key.rpartition("/")[2]))


def is_generic(stem: str) -> bool:
    """Whether a file's name says nothing of what is in it, so that its folder's name does."""
    return bool(_GENERIC.fullmatch(stem))
