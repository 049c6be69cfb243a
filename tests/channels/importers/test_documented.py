"""Every import command of the documentation, run on small sources in the layouts that it names."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from channels.store import ChannelStore
from jobs.cli.channels import app
from tests.channels.importers.layouts import (
    D3,
    P01,
    draw,
    write_config,
    write_cost2100,
    write_split,
    write_wifo,
)
from tests.channels.importers.test_deepmimo import write_scenario
from tests.docs.pages import ROOT, commands

PAGES = (ROOT / "README.md", ROOT / "docs" / "data.md")


def imports() -> list[str]:
    """The import commands of both pages."""
    found = [text for page in PAGES for text in commands(page) if text.startswith("wavetrain channels import ")]
    return list(dict.fromkeys(text for text in found if "SOURCE" not in text))


def write_hetercsi(folder: Path) -> None:
    for place, spec in (("train/D1", P01), ("zeroshot/D3", D3)):
        write_split(folder / place, "train" if place.startswith("train") else "test", draw(2, *spec.shape))
        write_config(folder / place, spec)


def write_task(folder: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    folder.mkdir()
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        held = {"channels": torch.from_numpy(draw(count, 4, 8)), "labels": torch.arange(count)}
        torch.save(held, folder / f"{split}_data.pt")


def write_users(folder: Path) -> None:
    folder.mkdir()
    channel = draw(5, 4, 8)
    parts = np.stack([channel.real, channel.imag], -1).astype(np.float16)
    np.savez(folder / "square.npz", H=parts, pos=np.arange(15.0).reshape(5, 3), los=np.arange(5))


def write_deepmimo(folder: Path) -> None:
    pytest.importorskip("deepmimo", reason="the extra deepmimo is not installed")
    write_scenario(folder)


def write_lab(folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "lab.npy", draw(3, 4, 8, 2))


def write_generated(folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "H.npy", draw(3, 1, 4, 8))


WRITERS = {
    "DATA": write_hetercsi,
    "WIFO": lambda folder: write_wifo(folder / "D1", draw(2, *P01.shape)),
    "TASK": write_task,
    "SCENARIO": write_deepmimo,
    "V3": write_generated,
    "COST": lambda folder: write_cost2100(folder, "in", {"train": 2, "val": 1, "test": 1}),
    "USERS": write_users,
    "LAB": write_lab,
}


def test_the_table_has_every_format() -> None:
    named = {shlex.split(text)[3] for text in imports()}
    assert named >= WRITERS.keys()


@pytest.mark.parametrize("text", imports())
def test_a_command_of_the_documentation_imports(text: str, tmp_path: Path) -> None:
    words = shlex.split(text)[2:]
    name = words[1]
    writer = write_deepmimo if "deepmimo" in words else WRITERS.get(name, write_hetercsi)
    writer(tmp_path / name)
    (tmp_path / "SPEC").write_text("fc_ghz: 3.5\n")
    words = [str(tmp_path / word) if re.fullmatch(r"[A-Z][A-Z0-9]*", word) else word for word in words]
    words[words.index("--store") + 1] = str(tmp_path / "store")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "--dry-run" in words or ChannelStore.open(tmp_path / "store").sets


def test_the_specification_of_the_documentation_is_read(tmp_path: Path) -> None:
    from channels.importers.spec_file import FIELDS, read_spec_file

    text = next(match for match in re.findall(r"```yaml\n(.*?)```", PAGES[1].read_text(), re.S) if "sets:" in match)
    (tmp_path / "spec.yaml").write_text(text)
    given = read_spec_file(tmp_path / "spec.yaml")
    assert given.of("hall")["los"] is True and set(given.common) <= set(FIELDS)
