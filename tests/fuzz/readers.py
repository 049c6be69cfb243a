"""What the fuzzers call: every reader of files that others may have written."""

import json
from pathlib import Path

import numpy as np

from channels.errors import UserError


def import_folder(folder: Path) -> None:
    """Import of whatever lies in a folder into a store inside of it."""
    from channels.importers.options import ImportOptions
    from channels.importers.write import import_source

    import_source(folder, folder / "store", ImportOptions(), lambda *_: None)


def import_torch(folder: Path) -> None:
    """The same with PyTorch imported, whose memory is no part of what a file takes."""
    import torch  # noqa: F401

    import_folder(folder)


def import_scenario(folder: Path) -> None:
    """DeepMIMO import of a scenario into a store inside the folder."""
    from channels.importers.options import ImportOptions
    from channels.importers.write import import_source

    import_source(folder, folder / "store", ImportOptions(antennas=4, subcarriers=8), lambda *_: None)


def import_with_spec(folder: Path) -> None:
    """Import of an array whose parameters a file gives."""
    from channels.importers.options import ImportOptions
    from channels.importers.spec_file import read_spec_file
    from channels.importers.write import import_source

    options = ImportOptions(given=read_spec_file(folder / "spec.yaml"))
    import_source(folder / "lab.npy", folder / "store", options, lambda *_: None)


def open_store(folder: Path) -> None:
    """A store, all its samples and its check."""
    from channels.store import ChannelStore
    from channels.verify import verify

    store = ChannelStore.open(folder)
    verify(folder)
    for name, stored in store.sets.items():
        for split, part in stored.splits.items():
            indices = np.arange(min(part.count, 100))
            store.read(name, split, indices)
            store.labels(name, split, indices)


def open_forged_store(folder: Path) -> None:
    """A store whose forger knew how to make the fingerprint."""
    from channels import manifest

    file = folder / manifest.MANIFEST_FILE
    try:
        document = json.loads(file.read_bytes())
        sets = {row["spec"]["name"]: manifest._set_from_json(row, "") for row in document["sets"]}
        file.write_bytes(json.dumps(document | {"fingerprint": manifest.fingerprint(sets)}).encode())
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    open_store(folder)


def read_checkpoint(folder: Path) -> None:
    """The newest state, as a start looks for it."""
    from orchestrator.checkpoint.format import newest_complete

    newest_complete(folder, lambda text: None)


def read_forged_checkpoint(folder: Path) -> None:
    """The newest state, whose forger knew how to make the checksum of its description."""
    from orchestrator.checkpoint import format as checkpoints

    for file in folder.glob(f"*/{checkpoints.INFO}"):
        try:
            document = json.loads(file.read_bytes())
            document.pop(checkpoints.CHECKSUM, None)
            file.write_bytes(json.dumps(document | {checkpoints.CHECKSUM: checkpoints._checksum(document)}).encode())
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
    read_checkpoint(folder)


def read_state_file(folder: Path) -> None:
    """The file of a state whose forger knew how to make the checksum."""
    from orchestrator.checkpoint.state_files import StateReader

    with StateReader([folder / "rank-0.safetensors"]) as reader:
        reader.sizes()


def read_job(folder: Path) -> None:
    """A job spec."""
    from orchestrator.spec.job import load_job

    load_job(folder / "job.yaml")


def read_cluster(folder: Path) -> None:
    """A cluster file."""
    from orchestrator.spec.cluster import load_profile

    load_profile(folder / "cluster.yaml", None)
