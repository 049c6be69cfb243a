"""The HeterCSI sets as published: a folder a set with ``{train,val,test}_data.mat`` and, often, ``config.mat``.

``H_<split>`` is complex (N, T, K, A) in MATLAB; ``speed_<split>`` is (N, 1) in km/h and becomes a label. The folders
``D1``, ``D2``, ... lie in one of a role (``train`` or ``pretrain``, ``zeroshot`` or ``generalization``), which is what
keeps sets of the same name apart, or side by side where ``config.mat`` says what they are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import is_file
from channels.importers.assemble import Draft, found_set
from channels.importers.axes import Axes, mismatch
from channels.importers.files.arrays import StoredArray
from channels.importers.files.contents import contents
from channels.importers.formats.hetercsi_config import CONFIG, read_config
from channels.importers.found import Findings, FoundSet, LeftOut
from channels.importers.options import ImportOptions
from channels.importers.parameters import gather, given_for
from channels.importers.published import PublishedSet, differences, published_candidates, role_of, role_word
from channels.importers.reading import ChannelArray, Label, find_labels
from channels.importers.tree import Tree
from channels.manifest import SPLITS

NAME = "hetercsi"
_SPEEDS_AT_ONCE = 2**20
_AXES = Axes(("n", "t", "k", "a"))
_FILES = {f"{split}_data.mat": split for split in SPLITS}


def find_hetercsi(tree: Tree, options: ImportOptions) -> Findings:
    """All HeterCSI sets of a source. Raises UserError where a file cannot be read or contradicts its parameters."""
    sets: list[FoundSet] = []
    left_out: list[LeftOut] = []
    claimed: set[Path] = set()
    for folder in tree.folders_with(_FILES):
        files = {_FILES[file.name]: file for file in tree.files_of(folder) if file.name in _FILES}
        config = folder / CONFIG
        parts = {split: _split_file(file, split, options) for split, file in files.items()}
        sets.append(_found(folder, parts, config if is_file(config) else None, options))
        left_out += [
            LeftOut(f"{tree.relative(part.array.array.path)}: {name}", why)
            for part in parts.values()
            for name, why in part.passed
        ]
        claimed |= {*files.values(), config}
    return Findings(tuple(sets), tuple(left_out), frozenset(claimed))


@dataclass(frozen=True, slots=True)
class _SplitFile:
    array: ChannelArray
    kind: str
    passed: tuple[tuple[str, str], ...]


def _split_file(file: Path, split: str, options: ImportOptions) -> _SplitFile:
    """The channels of one file, with the speeds of its users, and what else it holds."""
    held = contents(file)
    by_key = {array.key: array for array in held.arrays}
    key = options.key or f"H_{split}"
    complexes = [array.key for array in held.arrays if array.is_complex]
    if key not in by_key and not options.key and len(complexes) == 1:
        key = complexes[0]
    if key not in by_key:
        listed = ", ".join(array.text for array in held.arrays) or "no array"
        mend = f"it holds {listed}; name the variable of the channels with --key"
        raise UserError(f"there is no variable {key}", where=str(file), mend=mend)
    channel = by_key.pop(key)
    axes = (options.axes or _AXES).of_matlab(channel.shape)
    axes.check(channel.shape, channel.is_complex, f"{file} ({channel.key})")
    labels, passed = _labels(channel, axes.count(channel.shape), split, list(by_key.values()))
    return _SplitFile(ChannelArray(channel, axes, labels), held.kind, (*held.passed, *passed))


def _labels(
    channel: StoredArray, count: int, split: str, others: list[StoredArray]
) -> tuple[dict[str, Label], list[tuple[str, str]]]:
    labels, rest = find_labels(channel, count, others, matlab=True)
    speed = f"speed_{split}"
    given = labels.get(speed)
    fits = given is not None and (given.axis is not None or math.prod(given.array.shape) == 1)
    if given is not None and fits and not given.array.is_complex:
        labels = {"speed_kmh" if name == speed else name: label for name, label in labels.items()}
    elif given is not None or any(array.key == speed for array, _ in rest):
        raise UserError(f"{speed} does not have one value a sample", where=str(channel.path), mend="fetch it again")
    return labels, [(array.key, why) for array, why in rest]


def _found(folder: Path, parts: Mapping[str, _SplitFile], config_file: Path | None, options: ImportOptions) -> FoundSet:
    name, word = folder.absolute().name, role_word(folder)
    path = f"{word}/{name}" if word else name
    config = read_config(config_file) if config_file else {}
    given = given_for(options, path, name)
    first = next(iter(parts.values()))
    scale = first.array.axes.scale(first.array.array.shape)
    asked = options.role or (role_of(word) if word else None)
    published, notes = _identify(published_candidates(name, asked), config, scale)
    role = asked or (published.role if published else "pretrain" if "train" in parts else "zeroshot")
    if not config and not given[1] and published is None:
        raise _unknown(folder, published_candidates(name, asked), first.array, options)
    known = {key: value for key, value in published.spec.to_mapping().items() if key != "name"} if published else {}
    speeds = None if published else _speeds(parts)
    parameters = gather(
        given,
        (CONFIG, {key: known.get(key, value) for key, value in config.items()}),
        (f"preset {NAME} {published.spec.name}" if published else "", known),
        ("speed_*", {"speed_kmh": speeds} if speeds else {}),
    )
    draft = Draft(
        reader=NAME,
        names=(published.spec.name,) if published else (name, f"{word or NAME}-{name}", f"{NAME}-{word or ''}-{name}"),
        path=path,
        role=role,
        kind=first.kind,
        arrays={split: part.array for split, part in parts.items()},
        parameters=parameters,
        published=published,
        base=published.spec if published else None,
        origin={"axes": options.axes.text} if options.axes else {},
        notes=notes,
    )
    return found_set(draft, options, folder)


def _identify(
    candidates: list[PublishedSet], config: Mapping[str, Any], scale: tuple[int, int, int]
) -> tuple[PublishedSet | None, tuple[str, ...]]:
    """The published set that a folder is, by its parameters or, without any, by its name and scale."""
    if not config:
        fitting = [one for one in candidates if one.spec.shape == scale]
        return (fitting[0] if len(fitting) == 1 else None), ()
    differing = [(one, differences(config, one.spec)) for one in candidates]
    same = next((one for one, found in differing if not found), None)
    if same or not differing:
        return same, ()
    one, found = differing[0]
    return None, (f"not the published {one.role} set of this name: {CONFIG} has {'; '.join(found[:3])}",)


def _unknown(folder: Path, candidates: list[PublishedSet], array: ChannelArray, options: ImportOptions) -> UserError:
    """The one line for a set without parameters."""
    command = options.command_for(folder)
    if len(candidates) == 1:
        one = candidates[0]
        whose = f"the published {one.role} set {one.spec.name}"
        return mismatch(array.array.shape, array.axes, one.spec.shape, whose, str(array.array.path), command)
    if candidates:
        what = (
            f"both a published set to train on and one held out are called {folder.name}, and nothing says which it is"
        )
        return UserError(what, where=str(folder), mend=f"try '{command} --role zeroshot', or --role pretrain")
    mend = f"add {CONFIG}, or give them: try '{command} --spec FILE'"
    return UserError("nothing says what the parameters of this set are", where=str(folder), mend=mend)


def _speeds(parts: Mapping[str, _SplitFile]) -> list[float] | None:
    """Lowest and highest speed in the files of a set that is not a published one; None where they hold none."""
    found: list[float] = []
    for part in parts.values():
        label = part.array.labels.get("speed_kmh")
        if label is None:
            continue
        axis = label.axis or 0
        count = label.array.shape[axis]
        with label.array.opened() as slices:
            for start in range(0, count, _SPEEDS_AT_ONCE):
                values = slices(axis, start, min(start + _SPEEDS_AT_ONCE, count))
                found += [float(values.min()), float(values.max())]
    return [min(found), max(found)] if found else None
