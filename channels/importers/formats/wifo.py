"""WiFo's sets: a folder a set with ``X_test.mat``, whose variable ``X_val`` is complex (N, T, A, K).

Antennas stand before subcarriers there. D1 to D15 have the parameters of HeterCSI's first fifteen training sets, D16
those of the sixteenth without line of sight (WiFo, Table 1); of the others the files say only the shape.
"""

from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.importers.assemble import Draft, found_set
from channels.importers.axes import PARTS, Axes, fitting_axes, mismatch
from channels.importers.files.arrays import Contents, StoredArray
from channels.importers.files.contents import contents
from channels.importers.found import Findings, FoundSet, LeftOut
from channels.importers.options import ImportOptions
from channels.importers.pairs import join_pairs
from channels.importers.parameters import gather, given_for
from channels.importers.published import role_of, role_word
from channels.importers.reading import ChannelArray, find_labels
from channels.importers.tree import Tree
from channels.presets import load_preset
from channels.spec import ChannelSpec

NAME = "wifo"
_FILES = {"X_train.mat": "train", "X_val.mat": "val", "X_test.mat": "test"}
_KEYS = ("X_val", "X_test", "X_train", "X")
_AXES = Axes(("n", "t", "a", "k"))
_LAST_KNOWN = 16


def find_wifo(tree: Tree, options: ImportOptions) -> Findings:
    """All WiFo sets of a source. Raises UserError where a file cannot be read or has other axes."""
    sets: list[FoundSet] = []
    left_out: list[LeftOut] = []
    claimed: set[Path] = set()
    for folder in tree.folders_with(_FILES):
        files = {_FILES[file.name]: file for file in tree.files_of(folder) if file.name in _FILES}
        arrays: dict[str, ChannelArray] = {}
        for split, file in files.items():
            held = contents(file)
            arrays[split], passed = _channel(held, file, options)
            left_out += [LeftOut(f"{tree.relative(file)}: {key}", why) for key, why in passed]
        sets.append(_found(folder, held.kind, arrays, options))
        claimed |= set(files.values())
    return Findings(tuple(sets), tuple(left_out), frozenset(claimed))


def _channel(held: Contents, file: Path, options: ImportOptions) -> tuple[ChannelArray, list[tuple[str, str]]]:
    arrays = join_pairs(held.arrays)
    by_key = {array.key: array for array in arrays}
    wanted = (options.key,) if options.key else _KEYS
    channel = next((by_key[key] for key in wanted if key in by_key), None)
    if channel is None:
        listed = ", ".join(array.text for array in arrays) or "no array"
        what = f"there is no variable {wanted[0]}"
        raise UserError(what, where=str(file), mend=f"it holds {listed}; name the one of the channels with --key")
    axes = options.axes or _usual_axes(channel)
    axes = axes.of_matlab(channel.shape)
    axes.check(channel.shape, channel.is_complex, f"{file} ({channel.key})")
    others = [array for array in arrays if array is not channel]
    labels, rest = find_labels(channel, axes.count(channel.shape), others, matlab=True)
    return ChannelArray(channel, axes, labels), [*held.passed, *((array.key, why) for array, why in rest)]


def _usual_axes(channel: StoredArray) -> Axes:
    """(N, T, A, K), with the parts first or last among them where the numbers are real."""
    names = list(_AXES.names)
    if not channel.is_complex and len(channel.shape) == 5:
        names.insert(1 if channel.shape[1] == 2 and channel.shape[-1] != 2 else 4, PARTS)
    return Axes(tuple(names))


def _found(folder: Path, kind: str, arrays: dict[str, ChannelArray], options: ImportOptions) -> FoundSet:
    name, word = folder.absolute().name, role_word(folder)
    given = given_for(options, name)
    first = next(iter(arrays.values()))
    scale = first.axes.scale(first.array.shape)
    known = known_set(name)
    notes: tuple[str, ...] = ()
    if known and known.shape != scale and not given[1]:
        if fitting_axes(first.array.shape, known.shape):
            where, command = str(first.array.path), options.command_for(folder)
            raise mismatch(first.array.shape, first.axes, known.shape, f"WiFo's {name}", where, command)
        notes = (f"not WiFo's {name}, whose (T, K, A) is {known.shape}: give its parameters with --spec FILE",)
        known = None
    published: dict[str, Any] = (
        {key: value for key, value in known.to_mapping().items() if key != "name"} if known else {}
    )
    role = options.role or (role_of(word) if word else None) or ("pretrain" if "train" in arrays else "zeroshot")
    draft = Draft(
        reader=NAME,
        names=(name, f"{NAME}-{name}"),
        path=name,
        role=role,
        kind=kind,
        arrays=arrays,
        parameters=gather(given, (f"published (WiFo {name})", published)),
        base=known,
        origin={"key": first.array.key} | ({"axes": options.axes.text} if options.axes else {}),
        notes=notes,
    )
    return found_set(draft, options, folder)


def known_set(name: str) -> ChannelSpec | None:
    """The published parameters of one of WiFo's sets D1 to D16, None for others."""
    number = name.upper().removeprefix("D")
    if not number.isdecimal() or not 1 <= int(number) <= _LAST_KNOWN:
        return None
    spec = load_preset("hetercsi").pretrain[int(number) - 1]
    return (
        spec if int(number) < _LAST_KNOWN else ChannelSpec.from_mapping(spec.to_mapping() | {"los": False}, "WiFo D16")
    )
