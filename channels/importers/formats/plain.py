"""Arrays of channels in files of any layout: ``.npy``, ``.npz``, HDF5, MATLAB, PyTorch; labels beside them are kept.

Complex arrays, pairs of real and imaginary parts, and real arrays with an axis for the parts are channels; arrays with
an entry a sample are labels. Files or variables whose names differ in train, val and test are splits of one set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from channels.errors import UserError
from channels.importers.axes import PARTS, infer_axes
from channels.importers.files.arrays import Contents, StoredArray
from channels.importers.files.contents import SUFFIXES, contents
from channels.importers.formats.plain_sets import Piece, describing_files, group_pieces, piece_of, set_of
from channels.importers.found import Findings, LeftOut
from channels.importers.options import ImportOptions
from channels.importers.pairs import join_pairs, means_channel, means_label, split_in
from channels.importers.reading import ChannelArray, Label, find_labels
from channels.importers.scalars import scalar_parameters
from channels.importers.tree import Tree

_NAMED_AS_DEEPMIMO = ("channel", "channels")
"""Names under which DeepMIMO and LWM keep (users, receive antenna, antennas, subcarriers)."""


_USUAL = {1: "k", 2: "n,k", 3: "n,a,k", 4: "n,t,k,a", 5: "n,1,a,k,t"}


def find_arrays(tree: Tree, options: ImportOptions) -> Findings:
    """All arrays of channels. A source that is one file must hold one: UserError says why it does not."""
    pieces: list[Piece] = []
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
    sets = tuple(set_of(group, tree, options) for group in group_pieces(pieces))
    described = {file for piece in pieces for file in describing_files(piece)}
    spoken = {tree.relative(file) for file in described}
    rest = tuple(left for left in left_out if left.what not in spoken)
    return Findings(sets, rest, frozenset({*files, *described}))


def _pieces(held: Contents, options: ImportOptions, left_out: list[LeftOut], tree: Tree) -> list[Piece]:
    """The channels of one file, each with the labels beside it."""
    name = tree.relative(held.path)
    arrays = join_pairs(held.arrays)
    channels = _channels(arrays, options, every=False)
    if not channels:
        raise _no_channels(held, arrays, options)
    parameters, scalars = scalar_parameters([array for array in arrays if array not in channels])
    others = [array for array in arrays if array not in (*channels, *scalars)]
    left_out += [LeftOut(f"{name}: {key}", why) for key, why in held.passed]
    found: list[Piece] = []
    unused: dict[str, str] = {}
    bases = {split_in(channel.key.replace("/", "_"))[1] for channel in channels}
    for channel in channels:
        split, rest = split_in(channel.key.replace("/", "_"))
        array, leftover = _with_labels(
            channel, _of_split(others, split), options, matlab=held.kind.startswith("MATLAB")
        )
        unused |= {other.key: why for other, why in leftover}
        found.append(piece_of(array, held, held.path, split, rest if len(bases) > 1 else "", parameters))
    used = {label.array.key for piece in found for label in piece.array.labels.values()}
    left_out += [LeftOut(f"{name}: {key}", why) for key, why in unused.items() if key not in used]
    return found


def _of_split(others: Sequence[StoredArray], split: str | None) -> list[StoredArray]:
    """Arrays that belong to a split of a file that holds several: those called by it, or by none."""
    return [other for other in others if split is None or split_in(other.key.replace("/", "_"))[0] in (None, split)]


def _loose_pieces(
    helds: Sequence[Contents], options: ImportOptions, left_out: list[LeftOut], tree: Tree
) -> list[Piece]:
    """The channels among the ``.npy`` files of a folder and a split; the others are labels where there is one set."""
    by_array = {array: held for held in helds for array in held.arrays}
    arrays = join_pairs(by_array)
    channels = _channels(arrays, options, every=True)
    others = [array for array in arrays if array not in channels]
    found: list[Piece] = []
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
        found.append(piece_of(array, held, channel.path.with_stem(channel.key), None, "", {}))
        used |= {label.array.key for label in array.labels.values()}
    hint = _parts_hint([other for other in others if not other.is_complex and len(other.shape) >= 2])
    for other in (other for other in others if other.key not in used):
        if tree.alone:
            raise _no_channels(by_array[other], [other], options)
        left_out.append(
            LeftOut(tree.relative(other.path), f"{other.text} is neither channels nor an entry a sample{hint}")
        )
    return found


def _channels(arrays: Sequence[StoredArray], options: ImportOptions, *, every: bool) -> list[StoredArray]:
    """Arrays of channels, never of truth values. every: also of names that are not usual, beside such that are."""
    arrays = [array for array in arrays if array.dtype.kind != "b"]
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
    example = f", for example{axes}" if axes else ""
    return UserError(what, where=str(held.path), mend=f"{mend}{example}{_parts_hint(reals)}")


def _parts_hint(reals: Sequence[StoredArray]) -> str:
    """What to do where two real arrays may be the parts of one, by names that are not known."""
    alike = len({array.shape for array in reals}) < len(reals)
    return "; where two of them are the parts of one, rename them H_real and H_imag" if alike else ""


def _without_path(error: UserError, file: Path) -> str:
    return str(error).removeprefix(f"{file}: ").removeprefix(f"{file} ")
