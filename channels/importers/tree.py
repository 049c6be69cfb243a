"""The files of a source, as deep as its folders go; hidden files and stores of ours are not looked into."""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from channels.errors import UserError
from channels.files import is_file, is_folder, is_there
from channels.importers.found import LeftOut
from channels.manifest import MANIFEST_FILE, SHARD_FOLDER

DEPTH = 8
MOST_FILES = 100_000


@dataclass(frozen=True, slots=True)
class Tree:
    """root: the folder of the source. files: absolute, in natural order. alone: the source is one file."""

    root: Path
    files: tuple[Path, ...]
    alone: bool = False

    def folders_with(self, names: Collection[str]) -> list[Path]:
        """Folders that hold a file of one of these names, in natural order."""
        return list(dict.fromkeys(file.parent for file in self.files if file.name in names))

    def files_of(self, folder: Path) -> list[Path]:
        """Files that lie in a folder itself."""
        return [file for file in self.files if file.parent == folder]

    def relative(self, path: Path) -> str:
        """A path as the user sees it in the source."""
        text = str(path.relative_to(self.root))
        return path.name if text == "." else text


def look_into(source: Path) -> tuple[Tree, list[LeftOut]]:
    """The files of a folder, or a file alone, and what was not looked into. Raises UserError where there is nothing."""
    root = source.absolute()
    if not is_there(root):
        raise UserError("no such file or folder", where=str(source))
    if is_file(root):
        return Tree(root.parent, (root,), alone=True), []
    if not is_folder(root):
        mend = "copy what it gives to a file, and give that"
        raise UserError("neither a file nor a folder: a pipe or a device is not read", where=str(source), mend=mend)
    left_out: list[LeftOut] = []
    files: list[Path] = []
    for file in _walk(root, root, left_out, set()):
        files.append(file)
        if len(files) > MOST_FILES:
            raise UserError(f"more than {MOST_FILES} files", where=str(source), mend="give a folder of channels")
    return Tree(root, tuple(sorted(files, key=lambda file: natural(file.relative_to(root))))), left_out


def natural(path: Path) -> list[list[tuple[int, str, int]]]:
    """A key that sorts D2 before D10."""
    return [[(0, word, int(digits or -1)) for word, digits in re.findall(r"(\D*)(\d*)", part)] for part in path.parts]


def _walk(folder: Path, root: Path, left_out: list[LeftOut], seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        if _is_store(folder):
            left_out.append(LeftOut(_name(folder, root), "a store of Wavetrain, imported already"))
            return
        if len(folder.relative_to(root).parts) >= DEPTH:
            left_out.append(LeftOut(_name(folder, root), f"deeper than {DEPTH} folders: give it as the source"))
            return
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        left_out.append(LeftOut(_name(folder, root), "not allowed to look into it"))
        return
    except OSError as error:
        left_out.append(LeftOut(_name(folder, root), f"cannot be looked into ({error.strerror})"))
        return
    hidden = [entry.name for entry in entries if entry.name.startswith(".")]
    if hidden:
        left_out.append(LeftOut(_name(folder, root), f"{len(hidden)} hidden ({', '.join(hidden[:3])}) not looked at"))
    elif not entries and folder != root:
        left_out.append(LeftOut(_name(folder, root), "an empty folder"))
    for entry in (entry for entry in entries if not entry.name.startswith(".")):
        path = Path(entry.path)
        try:
            is_directory, is_regular = entry.is_dir(), entry.is_file()
        # A link to itself, or into a folder that one may not enter.
        except OSError as error:
            left_out.append(LeftOut(_name(path, root), f"cannot be looked at ({error.strerror})"))
            continue
        if is_directory:
            yield from _walk(path, root, left_out, seen)
        elif is_regular:
            yield path
        else:
            left_out.append(LeftOut(_name(path, root), "neither a file nor a folder"))


def _name(path: Path, root: Path) -> str:
    text = str(path.relative_to(root))
    return f"{path.name}/" if text == "." else text


def _is_store(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).is_file() and (folder / SHARD_FOLDER).is_dir()
