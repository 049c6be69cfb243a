"""Channels that others made as those of a study, in place of made ones."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from channels.errors import UserError
from channels.importers.found import Survey
from channels.importers.options import ImportOptions
from channels.importers.survey import survey
from channels.importers.write import import_sets, named_for
from channels.manifest import MANIFEST_FILE, ROLES, fingerprint, read_manifest
from channels.presets import Preset
from channels.progress import Progress


@dataclass(frozen=True, slots=True)
class Imported:
    """A source and the store that it goes to. sets: as they will be there, with their parameters. trained: held-out
    sets that bring training samples. training: training samples of the pre-training sets. roles: of the sets that are
    wanted."""

    source: Path
    store: Path
    sets: Preset
    trained: frozenset[str] = frozenset()
    training: Mapping[str, int] = field(default_factory=dict)
    roles: Sequence[str] = ROLES

    @property
    def fingerprint(self) -> str | None:
        """Of the store's content; None before there is one."""
        return fingerprint(read_manifest(self.store)) if (self.store / MANIFEST_FILE).is_file() else None

    def bring(self, progress: Progress) -> None:
        """Import what the store lacks. Raises UserError as ``wavetrain channels import`` does."""
        options = ImportOptions(store=self.store)
        import_sets(_survey(self.source, self.roles, options), self.store, options, progress)


def store_name(source: Path) -> str:
    """The source's name and a short hash of its whole path: sources of one name have stores of their own."""
    whole = source.resolve()
    return f"{whole.stem}-{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"


def look_at(source: Path, folder: Path, roles: Sequence[str] = ROLES) -> Imported:
    """What a source holds; nothing is written. folder: where stores lie. roles: of the sets that are wanted.

    Raises:
        UserError: nothing to import, or no set of one of the roles among it.
    """
    store = folder / f"imported-{store_name(source)}"
    found = _survey(source, roles, ImportOptions(store=store)).sets
    sets = Preset(
        source.resolve().name,
        tuple(one.spec for one in found if one.role == "pretrain"),
        tuple(one.spec for one in found if one.role == "zeroshot"),
    )
    for role, called, specs in (("pretrain", "pre-training", sets.pretrain), ("zeroshot", "held-out", sets.zeroshot)):
        if role in roles and not specs:
            above = "give the folder above both" if len(roles) > 1 else "give the folder that has some"
            mend = f"{above}; wavetrain channels import FOLDER --dry-run says what is there"
            raise UserError(f"no {called} sets", where=str(source), mend=mend)
    trained = frozenset(one.name for one in found if one.role == "zeroshot" and one.counts.get("train"))
    training = {one.name: one.counts.get("train", 0) for one in found if one.role == "pretrain"}
    return Imported(source, store, sets, trained, training, roles)


def _survey(source: Path, roles: Sequence[str], options: ImportOptions) -> Survey:
    """What a source holds of these roles, under the names in the store of the options."""
    assert options.store is not None
    found = named_for(survey(source, options), options.store, options)
    return replace(found, sets=tuple(one for one in found.sets if one.role in roles))
