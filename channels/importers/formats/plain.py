"""Arrays of channels in files of any layout: ``.npy``, ``.npz``, HDF5, MATLAB, PyTorch; labels beside them are kept.

Complex arrays, pairs of real and imaginary parts, and real arrays with an axis for the parts are channels; arrays with
an entry a sample are labels. Files or variables whose names differ in train, val and test are splits of one set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.importers.assemble import Draft, found_set
from channels.importers.axes import PARTS, infer_axes
from channels.importers.files.arrays import Contents, StoredArray
from channels.importers.files.contents import SUFFIXES, contents
from channels.importers.formats.hetercsi_config import CONFIG, read_config
from channels.importers.formats.ray_traced import MANIFEST, scene_parameters
from channels.importers.found import Findings, FoundSet, LeftOut
from channels.importers.holdout import hold_out
from channels.importers.options import ImportOptions
from channels.importers.pairs import is_generic, join_pairs, means_channel, means_label, split_in
from channels.importers.parameters import gather, given_for
from channels.importers.published import role_of, role_word
from channels.importers.reading import ChannelArray, Label, find_labels
from channels.importers.scalars import scalar_parameters
from channels.importers.tree import Tree

NAME = "arrays"
_NAMED_AS_DEEPMIMO = ("channel", "channels")
"""Names under which DeepMIMO and LWM keep (users, receive antenna, antennas, subcarriers)."""


_USUAL = {1: "k", 2: "n,k", 3: "n,a,k", 4: "n,t,k,a", 5: "n,1,a,k,t"}


@dataclass(frozen=True, slots=True)
class _Piece:
    """The channels of one split, or of a set without splits, and where they were found.

    folder: of the set. parameters: that the file itself has.
    """

    folder: Path
    base: str
    split: str | None
    array: ChannelArray
    kind: str
    file: Path
    parameters: Mapping[str, Any]


def find_arrays(tree: Tree, options: ImportOptions) -> Findings:
    """All arrays of channels. A source that is one file must hold one: UserError says why it does not."""
    pieces: list[_Piece] = []
    left_out: list[LeftOut] = []
    files = [file for file in tree.files if file.suffix.lower() in SUFFIXES or tree.alone]
    loose: dict[tuple[Path, str | None], list[Contents]] = {}
    for file in files:
        try:
            held = contents(file)
            if held.kind == "npy" and held.arrays:
                loose.setdefault((file.parent, split_in(file.stem)[0]), []).append(held)
            else:
                pieces += _pieces(held, options, left_out, tree)
        except UserError as error:
            if tree.alone:
                raise
            left_out.append(LeftOut(tree.relative(file), _without_path(error, file)))
    for helds in loose.values():
        pieces += _loose_pieces(helds, options, left_out, tree)
    groups: dict[tuple[Path, str, str], dict[str | None, _Piece]] = {}
    for piece in pieces:
        key = (piece.folder, piece.base, piece.file.suffix)
        while piece.split in groups.get(key, {}):
            key = (key[0], f"{key[1]}-{piece.file.stem}", key[2])
        groups.setdefault(key, {})[piece.split] = piece
    sets = tuple(_found(base, group, tree, options) for (_, base, _), group in groups.items())
    described = {piece.file.parent / MANIFEST for piece in pieces if scene_parameters(piece.file)}
    described |= {piece.file.parent / CONFIG for piece in pieces if _config(piece.file)}
    left_out = [left for left in left_out if left.what not in {tree.relative(path) for path in described}]
    return Findings(sets, tuple(left_out), frozenset({*files, *described}))


def _pieces(held: Contents, options: ImportOptions, left_out: list[LeftOut], tree: Tree) -> list[_Piece]:
    """The channels of one file, each with the labels beside it."""
    name = tree.relative(held.path)
    arrays = join_pairs(held.arrays)
    channels = _channels(arrays, options, every=False)
    if not channels:
        raise _no_channels(held, arrays, options)
    parameters, scalars = scalar_parameters([array for array in arrays if array not in channels])
    others = [array for array in arrays if array not in (*channels, *scalars)]
    left_out += [LeftOut(f"{name}: {key}", why) for key, why in held.passed]
    found: list[_Piece] = []
    unused: dict[str, str] = {}
    bases = {split_in(channel.key.replace("/", "_"))[1] for channel in channels}
    for channel in channels:
        split, rest = split_in(channel.key.replace("/", "_"))
        array, leftover = _with_labels(
            channel, _of_split(others, split), options, matlab=held.kind.startswith("MATLAB")
        )
        unused |= {other.key: why for other, why in leftover}
        found.append(_named(array, held, held.path, split, rest if len(bases) > 1 else "", parameters))
    used = {label.array.key for piece in found for label in piece.array.labels.values()}
    left_out += [LeftOut(f"{name}: {key}", why) for key, why in unused.items() if key not in used]
    return found


def _of_split(others: Sequence[StoredArray], split: str | None) -> list[StoredArray]:
    """Arrays that belong to a split of a file that holds several: those called by it, or by none."""
    return [other for other in others if split is None or split_in(other.key.replace("/", "_"))[0] in (None, split)]


def _loose_pieces(
    helds: Sequence[Contents], options: ImportOptions, left_out: list[LeftOut], tree: Tree
) -> list[_Piece]:
    """The channels among the ``.npy`` files of a folder and a split; the others are labels where there is one set."""
    by_array = {array: held for held in helds for array in held.arrays}
    arrays = join_pairs(by_array)
    channels = _channels(arrays, options, every=True)
    others = [array for array in arrays if array not in channels]
    found: list[_Piece] = []
    used: set[str] = set()
    for channel in channels:
        held = next(held for held in helds if held.path == channel.path)
        beside = others if len(channels) == 1 else []
        try:
            array, _ = _with_labels(channel, beside, options, matlab=False)
        except UserError as error:
            if tree.alone:
                raise
            left_out.append(LeftOut(tree.relative(channel.path), _without_path(error, channel.path)))
            continue
        found.append(_named(array, held, channel.path.with_stem(channel.key), None, "", {}))
        used |= {label.array.key for label in array.labels.values()}
    for other in (other for other in others if other.key not in used):
        if tree.alone:
            raise _no_channels(by_array[other], [other], options)
        left_out.append(LeftOut(tree.relative(other.path), f"{other.text} is neither channels nor an entry a sample"))
    return found


def _channels(arrays: Sequence[StoredArray], options: ImportOptions, *, every: bool) -> list[StoredArray]:
    """Arrays that are channels. every: also of names that are not usual ones, beside such that are."""
    if options.key:
        return [array for array in arrays if options.key in (array.key, split_in(array.key)[1])]
    complexes = [array for array in arrays if array.is_complex and len(array.shape) >= 2 and not means_label(array.key)]
    if complexes:
        usual = [array for array in complexes if means_channel(array.key)]
        return complexes if every or not usual else usual
    if options.axes:
        shaped = [
            array for array in arrays if len(array.shape) == len(options.axes.names) and not means_label(array.key)
        ]
        return [array for array in shaped if means_channel(array.key)] or shaped
    parts = [array for array in arrays if infer_axes(array.shape, False) and not means_label(array.key)]
    return [array for array in parts if means_channel(array.key)] or parts


def _with_labels(
    channel: StoredArray, others: Sequence[StoredArray], options: ImportOptions, *, matlab: bool
) -> tuple[ChannelArray, list[tuple[StoredArray, str]]]:
    receive = channel.key.rpartition("/")[2].lower() in _NAMED_AS_DEEPMIMO
    axes = options.axes or infer_axes(channel.shape, channel.is_complex, receive_axis=receive)
    where = f"{channel.path} ({channel.key})"
    if axes is None:
        what = f"{'complex' if channel.is_complex else 'real'}, of shape {channel.shape}: its axes cannot be guessed"
        usual = _USUAL.get(len(channel.shape), "n,t,k,a")
        mend = f"name them: try '{options.command_for(channel.path)} --axes {usual}' in the order of the array"
        raise UserError(what, where=where, mend=mend)
    axes = axes.of_matlab(channel.shape) if matlab else axes
    axes.check(channel.shape, channel.is_complex, where)
    labels, rest = find_labels(channel, axes.count(channel.shape), others, matlab=matlab)
    return ChannelArray(channel, axes, _named_labels(labels)), rest


def _named_labels(labels: Mapping[str, Label]) -> dict[str, Label]:
    """Labels by names that are the same in every split: ``labels_train`` is called labels."""
    found: dict[str, Label] = {}
    for key, label in labels.items():
        name = split_in(key.rpartition("/")[2])[1] or key
        found[key if name in found else name] = label
    return found


def _named(
    array: ChannelArray, held: Contents, file: Path, key_split: str | None, key: str, values: Mapping[str, Any]
) -> _Piece:
    """A piece with the split and the name of its set that file, folder and variable give."""
    file_split, stem = split_in(file.stem)
    folder, folder_split = file.parent, None
    if not file_split and not key_split:
        folder_split, rest = split_in(folder.name)
        folder, folder_split = (folder.parent, folder_split) if folder_split and not rest else (folder, None)
    base = folder.absolute().name if is_generic(stem) else stem
    if key:
        base = f"{base}-{key}"
    return _Piece(folder, base, file_split or key_split or folder_split, array, held.kind, held.path, values)


def _found(base: str, group: dict[str | None, _Piece], tree: Tree, options: ImportOptions) -> FoundSet:
    first = next(iter(group.values()))
    word = role_word(first.folder / base)
    only_test = set(group) == {"test"}
    role = options.role or (role_of(word) if word else None) or ("zeroshot" if only_test else "pretrain")
    arrays = {split: piece.array for split, piece in group.items() if split}
    path = _path(group, base, tree)
    notes = [f"axes {first.array.axes.text} are guessed: --axes says otherwise"] if not options.axes else []
    draft = Draft(
        reader=NAME,
        names=(base, f"{base}-{first.file.suffix[1:]}", f"{first.folder.absolute().name}-{base}"),
        path=path,
        role=role,
        kind=first.kind,
        arrays=arrays or {"train": first.array},
        parameters=gather(
            given_for(options, base, first.file.name, path),
            (CONFIG, _config(first.file)),
            (first.file.name, first.parameters),
            (MANIFEST, scene_parameters(first.file)),
        ),
        origin={"axes": first.array.axes.text, "key": first.array.array.key},
        notes=tuple(notes),
    )
    found = found_set(draft, options, first.file)
    return found if arrays else hold_out(found, first.array, options.val_share or 0.0)


def _config(file: Path) -> dict[str, Any]:
    """What a HeterCSI configuration beside a file says; nothing where there is none, or one of another kind."""
    config = file.parent / CONFIG
    if not config.is_file() or config == file:
        return {}
    try:
        return read_config(config)
    except UserError:
        return {}


def _path(group: Mapping[str | None, _Piece], base: str, tree: Tree) -> str:
    """The file of a set, or where its files lie."""
    first = next(iter(group.values()))
    if len({piece.file for piece in group.values()}) == 1:
        return tree.relative(first.file)
    folder = tree.relative(first.folder) if first.folder.is_relative_to(tree.root) else first.folder.name
    return folder if base == first.folder.absolute().name else f"{folder}/{base}"


def _no_channels(held: Contents, arrays: Sequence[StoredArray], options: ImportOptions) -> UserError:
    listed = ", ".join(array.text for array in arrays[:8]) or "no array of numbers"
    passed = "; ".join(f"{key}: {why}" for key, why in held.passed[:4])
    wanted = f"no variable {options.key}" if options.key else "no array of channels"
    what = f"{wanted}: it holds {listed}{f' ({passed})' if passed else ''}"
    reals = [array for array in arrays if not array.is_complex and len(array.shape) >= 2]
    axes = f" --axes n,k,{PARTS.replace('/', ',')}" if reals and len(reals[0].shape) == 3 else ""
    mend = (
        "channels are complex, or have an axis of real and imaginary parts, which --axes names; --key names the array"
    )
    return UserError(what, where=str(held.path), mend=f"{mend}{f', for example{axes}' if axes else ''}")


def _without_path(error: UserError, file: Path) -> str:
    return str(error).removeprefix(f"{file}: ").removeprefix(f"{file} ")
