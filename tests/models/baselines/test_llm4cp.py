"""LLM4CP: what is trained, where GPT-2's weights come from, what its export needs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from channels.errors import UserError
from models.baselines import gpt2
from models.baselines.llm4cp import Llm4CpPredictor
from models.export import load_model, save_model
from models.interface import caveats
from models.layers.parameters import count_parameters
from models.registry import make_spec

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SCALE = {"slots": 16, "subcarriers": 8, "antennas": 2}
SMALL = SCALE | {"width": 32, "heads": 4, "layers": 2, "channels": 8}


def a_gpt2(layers: int = 3, width: int = 32) -> dict[str, torch.Tensor]:
    """Weights of a small GPT-2 with words, as the library names them."""
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        n_layer=layers, n_embd=width, n_head=4, vocab_size=11, bos_token_id=None, eos_token_id=None
    )
    return transformers.GPT2Model(config).state_dict()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(a_gpt2(), tmp_path / "model.safetensors")
    return tmp_path


def test_norms_and_positions_of_gpt2_and_all_around_it_are_trained() -> None:
    """As published for 48 subcarriers and a history of 16: 1.76 of 44.3 million (82.9 with words, which are unused)."""
    spec = make_spec("llm4cp", {"slots": 32, "subcarriers": 48, "antennas": 4})
    with torch.device("meta"):
        model = Llm4CpPredictor(spec, spec.halves)
    branch = (2 * 64 * 9 + 64) + 4 * (2 * (64 * 64 * 9 + 64) + 2 * 64 * 64) + (64 * 2 * 9 + 2)
    around = 2 * branch + (4 * 4 + 4) + (3 * 96 * 768 + 768) + (16 * 16 + 16) + (768 * 96 + 96) + (16 * 16 + 16)
    norms_and_positions = 6 * 4 * 768 + 2 * 768 + 1024 * 768
    assert count_parameters(model) == around + norms_and_positions
    frozen = sum(part.numel() for part in model.parameters() if not part.requires_grad)
    assert frozen == 6 * (12 * 768**2 + 9 * 768)


def test_weights_of_a_folder_are_taken_and_said(folder: Path) -> None:
    spec = make_spec("llm4cp", SMALL | {"gpt2": str(folder)})
    spec.check("cpu")
    assert caveats(spec) == () and str(folder) in spec.notes("cpu", False)[0]
    own = spec.build(0).predictor.gpt2.gpt2.state_dict()
    published = a_gpt2()
    assert all(torch.equal(value, published[name]) for name, value in own.items())
    drawn = make_spec("llm4cp", SMALL)
    assert "random" in caveats(drawn)[0] and drawn.notes("cpu", False) == caveats(drawn)
    assert not torch.equal(
        drawn.build(0).predictor.gpt2.gpt2.h[0].attn.c_attn.weight, published["h.0.attn.c_attn.weight"]
    )


def test_the_older_file_with_a_language_head_is_read_too(tmp_path: Path, folder: Path) -> None:
    head = {f"transformer.{name}": value for name, value in a_gpt2().items()} | {"lm_head.weight": torch.zeros(1)}
    older = tmp_path / "older"
    older.mkdir()
    torch.save(head, older / "pytorch_model.bin")
    models = [make_spec("llm4cp", SMALL | {"gpt2": str(place)}).build(0) for place in (folder, older)]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_what_is_no_gpt2_of_that_size_is_refused_on_one_line(tmp_path: Path, folder: Path) -> None:
    def refusal(options: dict) -> str:
        with pytest.raises(UserError) as refused:
            spec = make_spec("llm4cp", SMALL | options)
            spec.check("cpu")
            spec.build(0)
        return str(refused.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no model.safetensors or pytorch_model.bin" in refusal({"gpt2": str(empty)})
    assert "wpe.weight is of shape (1024, 32), not (1024, 64)" in refusal({"gpt2": str(folder), "width": 64})
    assert "h.3.ln_1.weight is missing" in refusal({"gpt2": str(folder), "layers": 4})
    (empty / "pytorch_model.bin").write_bytes(b"no weights")
    assert "cannot be read" in refusal({"gpt2": str(empty)})
    assert "history of 3 steps" in refusal({"slots": 7, "direction": "backward"})


def test_an_export_needs_no_folder_any_more(tmp_path: Path, folder: Path) -> None:
    options = SMALL | {"gpt2": str(folder)}
    model = make_spec("llm4cp", options).build(0)
    save_model(tmp_path / "export", "llm4cp", options, model)
    (folder / "model.safetensors").unlink()
    spec, loaded = load_model(tmp_path / "export")
    assert caveats(spec) == ()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(UserError, match="names no folder"):
        spec.check("cpu")
    save_model(tmp_path / "drawn", "llm4cp", SMALL, make_spec("llm4cp", SMALL).build(0))
    assert "random" in caveats(load_model(tmp_path / "drawn")[0])[0]


def test_a_missing_library_is_said_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'wavetrain\[baselines\]'"):
        make_spec("llm4cp", SMALL).check("cpu")
    with pytest.raises(UserError, match="transformers"):
        make_spec("llm4cp", SMALL).build(0)
