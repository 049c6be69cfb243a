"""Channels that others made as those of a study, in place of made ones."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from channels.errors import UserError
from channels.importers.options import ImportOptions
from channels.importers.survey import survey
from channels.importers.write import import_source, named_for
from channels.manifest import MANIFEST_FILE, fingerprint, read_manifest
from channels.presets import Preset
from channels.progress import Progress


@dataclass(frozen=True, slots=True)
class Imported:
    """A source and the store that it goes to. sets: as they will be there, with their parameters. trained: held-out
    sets that bring training samples. training: training samples of the pre-training sets."""

    source: Path
    store: Path
    sets: Preset
    trained: frozenset[str] = frozenset()
    training: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str | None:
        """Of the store's content; None before there is one."""
        return fingerprint(read_manifest(self.store)) if (self.store / MANIFEST_FILE).is_file() else None

    def bring(self, progress: Progress) -> None:
        """Import what the store lacks. Raises UserError as ``wavetrain channels import`` does."""
        import_source(self.source, self.store, ImportOptions(store=self.store), progress)


def store_name(source: Path) -> str:
    """The source's name and a short hash of its whole path: sources of one name have stores of their own."""
    whole = source.resolve()
    return f"{whole.stem}-{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"


def look_at(source: Path, folder: Path) -> Imported:
    """What a source holds; nothing is written. folder: where stores lie.

    Raises:
        UserError: nothing to import, or no pre-training or no held-out set among it.
    """
    store = folder / f"imported-{store_name(source)}"
    options = ImportOptions(store=store)
    found = named_for(survey(source, options), store, options).sets
    sets = Preset(
        source.resolve().name,
        tuple(one.spec for one in found if one.role == "pretrain"),
        tuple(one.spec for one in found if one.role == "zeroshot"),
    )
    for role, specs in (("pre-training", sets.pretrain), ("held-out", sets.zeroshot)):
        if not specs:
            mend = "give the folder above both; wavetrain channels import FOLDER --dry-run says what is there"
            raise UserError(f"no {role} sets", where=str(source), mend=mend)
    trained = frozenset(one.name for one in found if one.role == "zeroshot" and one.counts.get("train"))
    training = {one.name: one.counts.get("train", 0) for one in found if one.role == "pretrain"}
    return Imported(source, store, sets, trained, training)
