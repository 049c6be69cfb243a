"""What lies in a source: the readers look at it one after another, each at the files that none before it understood."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from channels.errors import UserError
from channels.importers.found import Findings, FoundSet, LeftOut, Survey
from channels.importers.options import ImportOptions
from channels.importers.parameters import refuse_unknown_sets
from channels.importers.published import is_published_name
from channels.importers.tree import Tree, look_into

Reader = Callable[[Tree, ImportOptions], Findings]

FORMATS = ("hetercsi", "wifo", "deepmimo", "cost2100", "arrays")
"""Readers in the order in which they look; the last one takes arrays of any layout."""

IDENTITY = ("format", "source", "digest")
"""Entries of an origin by which a set that was imported before is known again."""

_REASONS = 3
_USERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "axes": ("hetercsi", "wifo", "arrays"),
        "key": ("hetercsi", "wifo", "cost2100", "arrays"),
        "val_share": ("deepmimo", "arrays"),
        "antennas": ("deepmimo",),
        "subcarriers": ("deepmimo", "cost2100"),
        "spacing_khz": ("deepmimo",),
        "slots": ("deepmimo",),
    }
)
"""Options that not every reader uses, and those that do."""


def survey(source: Path, options: ImportOptions) -> Survey:
    """All sets of a source, checked against their files' headers, and what is left out. No channel is read.

    Raises UserError where there is nothing to import, or a file of a set is unreadable or contradicts its parameters.
    """
    if options.format is not None and options.format not in FORMATS:
        raise UserError(f"unknown format {options.format!r}", where="--format", mend=f"there are {', '.join(FORMATS)}")
    tree, left_out = look_into(source)
    sets: list[FoundSet] = []
    rest = tree
    for name in FORMATS if options.format is None else (options.format,):
        findings = reader(name)(rest, options)
        sets += findings.sets
        left_out += findings.left_out
        rest = replace(rest, files=tuple(file for file in rest.files if file not in findings.claimed))
    looked = f"not looked at: only --format {options.format}" if options.format else "not a file of channels"
    left_out += [LeftOut(tree.relative(file), looked) for file in rest.files]
    if not sets:
        raise _nothing(source, left_out, options)
    refuse_unknown_sets(options, {name for found in sets for name in (found.name, *_spoken_names(found))})
    return Survey(source, tuple(sets), tuple(left_out))


def refuse_unused(options: ImportOptions, found: Survey) -> None:
    """Raises UserError where an option is given that no reader of a set found uses."""
    readers = {one.reader for one in found.sets}
    for name, users in _USERS.items():
        if getattr(options, name) is not None and not readers & set(users):
            what = f"it is for {', '.join(users)}, and found is only {', '.join(sorted(readers))}"
            mend = "leave it out; --spec FILE says what the parameters of a set are"
            raise UserError(what, where=f"--{name.replace('_', '-')}", mend=mend)


def reader(name: str) -> Reader:
    """The reader of a format; imported only now, so that a command that imports nothing does not wait for it."""
    if name == "hetercsi":
        from channels.importers.formats.hetercsi import find_hetercsi

        return find_hetercsi
    if name == "wifo":
        from channels.importers.formats.wifo import find_wifo

        return find_wifo
    if name == "deepmimo":
        from channels.importers.formats.deepmimo import find_deepmimo

        return find_deepmimo
    if name == "cost2100":
        from channels.importers.formats.cost2100 import find_cost2100

        return find_cost2100
    from channels.importers.formats.plain import find_arrays

    return find_arrays


def name_sets(found: Survey, held: Mapping[str, tuple[str, ...]], name: str | None) -> Survey:
    """The survey with a name for every set that no other has, here or in the store.

    held: the identity of each set of the store, by which a set that was imported before keeps its name. name: that the
    user gives to the one set, or puts before the names of several.
    """
    taken = dict(held)
    named: list[FoundSet] = []
    for one in found.sets:
        identity = tuple(str(one.origin.get(key)) for key in IDENTITY)
        choices = [one.name, *one.alternatives]
        if name:
            choices = [name if len(found.sets) == 1 else f"{name}-{choice}" for choice in choices]
        choices += [f"{choices[-1]}-{number}" for number in range(2, len(taken) + 3)]
        chosen = next(choice for choice in choices if taken.get(choice, identity) == identity)
        taken[chosen] = identity
        if name and is_published_name(chosen) and one.origin.get("published_name") != chosen:
            what = f"{chosen} is the name of a published set, which {one.published} is not"
            raise UserError(what, where="--name", mend="choose another name")
        named.append(_renamed(one, chosen))
    return replace(found, sets=tuple(named))


def _renamed(found: FoundSet, name: str) -> FoundSet:
    if name == found.name:
        return found
    spec = type(found.spec).from_mapping(found.spec.to_mapping() | {"name": name}, "--name")
    return replace(found, spec=spec)


def _spoken_names(found: FoundSet) -> tuple[str, ...]:
    """Names by which ``--spec`` may call a set."""
    path = found.published
    return (path, path.rpartition("/")[2], Path(path).stem, *found.alternatives, path.partition("-t")[0])


def _nothing(source: Path, left_out: list[LeftOut], options: ImportOptions) -> UserError:
    reasons = "; ".join(f"{one.what}: {one.why}" for one in left_out[:_REASONS])
    more = f" (and {len(left_out) - _REASONS} more)" if len(left_out) > _REASONS else ""
    mend = "docs/data.md has the layouts that are read; --format, --key and --axes say what cannot be inferred"
    return UserError(f"no set can be imported from here ({reasons or 'no file'}{more})", where=str(source), mend=mend)
