"""Finding runs in the folders of all profiles: by name, by the beginning of a name, or by path."""

from collections.abc import Sequence
from pathlib import Path

from channels.errors import UserError
from channels.files import is_file
from orchestrator.run.folder import RunDirectory

NAMED = 8
"""Most runs that an error lists."""


def list_runs(folders: Sequence[Path]) -> list[RunDirectory]:
    """Every run in these folders that was started or submitted, newest last."""
    found = {path.parent for runs in folders for path in runs.glob("*/spec.json")} | {
        path.parents[1] for runs in folders for path in runs.glob("*/launch/spec.json")
    }
    return [RunDirectory(path) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def newest_run(folders: Sequence[Path]) -> RunDirectory:
    """The run that was touched last.

    Raises:
        UserError: there is none.
    """
    known = list_runs(folders)
    if not known:
        raise UserError("no run is there yet", where=text_of(folders), mend="wavetrain train SPEC")
    return known[-1]


def find_run(name: str, folders: Sequence[Path]) -> RunDirectory:
    """The folder of a run by name, unambiguous beginning of a name, or path.

    Raises:
        UserError: none, or several.
    """
    where = text_of(folders)
    known = list_runs(folders)
    called = [directory for directory in known if directory.path.name == name]
    if len(called) > 1:
        raise UserError(f"several runs are called {name!r}", where=where, mend="choose by --cluster or by folder")
    if called:
        return called[0]
    if is_file(Path(name) / "spec.json") or is_file(Path(name) / "launch" / "spec.json"):
        return RunDirectory(Path(name))
    matching = [directory for directory in known if directory.path.name.startswith(name)]
    if len(matching) > 1:
        names = ", ".join(directory.path.name for directory in matching[:NAMED])
        raise UserError(f"{name!r} is the beginning of several runs", where=where, mend=f"give one of {names}")
    if not matching:
        names = ", ".join(directory.path.name for directory in known[-NAMED:])
        mend = f"known runs: {names}" if known else "no run is there yet: wavetrain train SPEC"
        raise UserError(f"no run {name!r}", where=where, mend=mend)
    return matching[0]


def text_of(folders: Sequence[Path]) -> str:
    """Folders as one line of text."""
    return ", ".join(map(str, folders))
