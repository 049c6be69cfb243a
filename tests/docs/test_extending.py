"""The Python of docs/extending.md, as it stands there."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.store import ChannelStore
from models.interface import MaskDraw, collate
from models.registry import make_spec
from tests.docs.pages import ROOT, Block, blocks


def python_blocks() -> list[Block]:
    return [block for block in blocks(ROOT / "docs" / "extending.md") if block.language == "python"]


def test_channels_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python_blocks()[0].body, "extending.md", "exec"), {})
    store = ChannelStore.open(tmp_path / "data" / "lab")
    assert store.read("lab-hall", "train", np.arange(64)).shape == (64, 8, 16, 4)


def test_embeddings_of_ones_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "extending"}
    for block in python_blocks()[:3]:
        exec(compile(block.body, "extending.md", "exec"), names)
    assert names["embedding"].class_token.shape == (4, 32) and names["embedding"].patches.shape == (4, 4, 32)


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains through the registry, and padding does not touch it."""
    (tmp_path / "wavetrain_mixer.py").write_text(python_blocks()[1].body)
    info = tmp_path / "mixer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mixer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wavetrain.models]\nmean-mixer = wavetrain_mixer:MeanMixerSpec\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()

    spec = make_spec("mean-mixer", {"width": 16, "patches": [4]})
    model = spec.build(seed=1).eval()
    random = np.random.default_rng(0)
    short, long = (
        spec.tokenise((random.normal(size=(2, 1, size, 8, 2)) @ [1, 1j]).astype(np.complex64), 4) for size in (16, 32)
    )
    keys, weight, draw = np.arange(4), np.ones(4, np.float32), MaskDraw(seed=0, epoch=0)
    alone = model(collate([short], keys[:2], weight[:2], 4), draw) + model(
        collate([long], keys[2:], weight[2:], 4), draw
    )
    padded = model(collate([short, long], keys, weight, 4), draw)
    assert padded.item() == pytest.approx(alone.item(), rel=1e-5)
    padded.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
