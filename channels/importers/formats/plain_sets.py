"""Sets out of the pieces that plain files hold: what belongs together by name, what it is called and what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import is_file
from channels.importers.assemble import Draft, found_set
from channels.importers.files.arrays import Contents
from channels.importers.formats.hetercsi_config import CONFIG, read_config
from channels.importers.formats.ray_traced import MANIFEST, scene_parameters
from channels.importers.found import FoundSet
from channels.importers.holdout import hold_out
from channels.importers.options import ImportOptions
from channels.importers.pairs import is_generic, split_in
from channels.importers.parameters import gather, given_for
from channels.importers.published import role_of, role_word
from channels.importers.reading import ChannelArray
from channels.importers.tree import Tree

NAME = "arrays"


@dataclass(frozen=True, slots=True)
class Piece:
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


def describing_files(piece: Piece) -> set[Path]:
    """Files beside a piece that say what its parameters are."""
    folder = piece.file.parent
    found = {folder / MANIFEST} if scene_parameters(piece.file) else set()
    return found | ({folder / CONFIG} if _config(piece.file) else set())


def group_pieces(pieces: Sequence[Piece]) -> list[dict[str | None, Piece]]:
    """Pieces by the set that they belong to, each under its split; None for one without splits."""
    groups: dict[tuple[Path, str, str], dict[str | None, Piece]] = {}
    for piece in pieces:
        key = (piece.folder, piece.base, piece.file.suffix)
        while piece.split in groups.get(key, {}):
            key = (key[0], f"{key[1]}-{piece.file.stem}", key[2])
        groups.setdefault(key, {})[piece.split] = replace(piece, base=key[1])
    return list(groups.values())


def piece_of(
    array: ChannelArray, held: Contents, file: Path, key_split: str | None, key: str, values: Mapping[str, Any]
) -> Piece:
    """A piece with the split and the name of its set that file, folder and variable give."""
    file_split, stem = split_in(file.stem)
    folder, folder_split = file.parent, None
    if not file_split and not key_split:
        folder_split, rest = split_in(folder.name)
        folder, folder_split = (folder.parent, folder_split) if folder_split and not rest else (folder, None)
    base = folder.absolute().name if is_generic(stem) else stem
    if key:
        base = f"{base}-{key}"
    return Piece(folder, base, file_split or key_split or folder_split, array, held.kind, held.path, values)


def set_of(group: Mapping[str | None, Piece], tree: Tree, options: ImportOptions) -> FoundSet:
    """The set of some pieces. Raises UserError where they and their parameters contradict each other."""
    first = next(iter(group.values()))
    base = first.base
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
    try:
        return read_config(config) if config != file and is_file(config) else {}
    except UserError:
        return {}


def _path(group: Mapping[str | None, Piece], base: str, tree: Tree) -> str:
    """The file of a set, or where its files lie."""
    first = next(iter(group.values()))
    if len({piece.file for piece in group.values()}) == 1:
        return tree.relative(first.file)
    folder = tree.relative(first.folder) if first.folder.is_relative_to(tree.root) else first.folder.name
    return folder if base == first.folder.absolute().name else f"{folder}/{base}"
