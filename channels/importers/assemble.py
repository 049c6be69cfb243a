"""A set out of its arrays and what is known of it: parameters completed, compared with the arrays, and named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.importers.digest import digest_of
from channels.importers.found import FoundSet, Parameter
from channels.importers.options import ImportOptions
from channels.importers.parameters import assumed_fields, build_spec, check_scale, complete, usable_name
from channels.importers.published import PublishedSet, is_published_name, published_origin
from channels.importers.reading import ChannelArray, agree_on_constants
from channels.manifest import SPLITS
from channels.spec import ChannelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What a reader knows of a set.

    names: for the store, the best first. path: as published or below the source. parameters: what is known of them.
    arrays: one a split. published: the set of the HeterCSI paper that it is. base: a specification whose fields it has
    where nothing else says so. scale: of a sample that is computed from its array; None where it is the array's own.
    """

    reader: str
    names: tuple[str, ...]
    path: str
    role: str
    kind: str
    arrays: Mapping[str, ChannelArray]
    parameters: Mapping[str, Parameter]
    published: PublishedSet | None = None
    base: ChannelSpec | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    scale: tuple[int, int, int] | None = None


def found_set(draft: Draft, options: ImportOptions, source: Path) -> FoundSet:
    """The set of a draft. source: the path that imports it alone.

    Raises UserError where an array and the parameters, or two splits, disagree.
    """
    arrays = agree_on_constants({split: draft.arrays[split] for split in SPLITS if split in draft.arrays})
    first = next(iter(arrays.values()))
    scale = draft.scale or first.axes.scale(first.array.shape)
    for array in arrays.values():
        if array.count == 0:
            mend = "save an array with samples in it, or name their axis with --axes"
            raise UserError(f"{array.array.key} holds no sample", where=str(array.array.path), mend=mend)
    parameters = complete(dict(draft.parameters), scale)
    names = [name for name in draft.names if draft.published or not is_published_name(name)]
    names = [usable_name(name) for name in names or [f"{draft.reader}-{draft.names[0]}"]]
    spec = build_spec(names[0], parameters, str(source), draft.base)
    if draft.scale and spec.shape != draft.scale:
        what = f"(T, K, A) = {spec.shape} is asked for, but it is made as {draft.scale}"
        raise UserError(what, where=options.given.where, mend="leave slots, subcarriers, rows and cols out")
    for array in arrays.values() if draft.scale is None else ():
        check_scale(spec, array.array.shape, array.axes, parameters, str(array.array.path), options.command_for(source))
    splits = {split: array.split() for split, array in arrays.items()}
    counts = {split: part.count for split, part in splits.items()}
    digest = digest_of(array.array.path for array in arrays.values())
    origin = {"format": draft.reader, "source": draft.path, "digest": digest, **draft.origin}
    if draft.published:
        origin |= published_origin(draft.published, counts)
    assumed = assumed_fields(parameters)
    return FoundSet(
        spec=spec,
        role=draft.role,
        reader=draft.reader,
        published=draft.path,
        layout=f"{draft.kind} {first.array.text}, axes {first.axes.text}",
        splits=splits,
        parameters=parameters,
        origin=origin | ({"assumed": assumed} if assumed else {}),
        notes=draft.notes,
        alternatives=tuple(names[1:]),
    )
