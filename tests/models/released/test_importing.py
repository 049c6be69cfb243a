"""Released checkpoints become exports: names, sizes, layouts of tokens, and what is refused."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from channels.errors import UserError
from models.export import load_model
from models.registry import make_spec
from models.released.importing import FAMILIES, import_released, load_released
from models.released.snapshots import published_order
from tests.models.snapshots import random_channels

MODELS: dict[str, dict[str, Any]] = {
    "hetercsi": {"size": "tiny"},
    "wifo": {"size": "tiny", "position": "published"},
    "wimamba": {"size": "tiny", "patches": [2, 6], "state": 3, "conv": 2},
    "lwm": {"size": "tiny", "patches": [2, 6], "positions": 77},
}
SEVERAL = {f"resolution_embeddings.{length}.weight": torch.empty(0) for length in (8, 72)}


def released(
    name: str, options: dict[str, Any], one_patch: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A network of ours, and its tensors under the published names: the rules backwards."""
    spec = make_spec(name, options)
    ours = spec.build(seed=5).state_dict()
    weights: dict[str, Tensor] = {}
    for rule in FAMILIES[name].rules(spec, {} if one_patch else SEVERAL):
        tensor = ours[rule.ours]
        if rule.order is not None:
            tensor = torch.empty_like(tensor).index_copy(rule.axis, rule.order, tensor)
        shape = rule.part_shape(tuple(tensor.shape))
        for part, piece in zip(rule.parts, tensor.reshape(len(rule.parts), -1), strict=True):
            weights[part] = piece.reshape(shape).clone()
    return ours, weights


def assert_same(found: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[name], ours[name]) for name in ours)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["plain", "training", "parallel", "safetensors"])
def test_a_checkpoint_comes_back_as_an_export(name: str, form: str, tmp_path: Path) -> None:
    ours, weights = released(name, MODELS[name])
    path = tmp_path / ("released.safetensors" if form == "safetensors" else "released.pth")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "parallel":
        torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    else:
        beside = {"optimizer": {"state": {0: torch.ones(3)}}, "epoch": 149, "args": argparse.Namespace(lr=8e-4)}
        torch.save({"model": weights, **beside} if form == "training" else weights, path)
    made = import_released(path, name, None, tmp_path / "export")
    spec, model = load_model(tmp_path / "export")
    assert spec == make_spec(name, MODELS[name]) == make_spec(name, made.options)
    assert_same(model.state_dict(), ours)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["export", path.name]


@pytest.mark.parametrize("name", ["wimamba", "lwm"])
def test_a_checkpoint_of_one_granularity_has_other_names(name: str, tmp_path: Path) -> None:
    options = {**MODELS[name], "patches": [4]}
    ours, weights = released(name, options, one_patch=True)
    assert "decoder_bias" in weights and not any("resolution" in key for key in weights)
    torch.save(weights, tmp_path / "one.pth")
    made = load_released(tmp_path / "one.pth", name)
    assert make_spec(name, made.options) == make_spec(name, options)
    assert_same(made.network.state_dict(), ours)


@pytest.mark.parametrize("size", ["published", "base"])
def test_sizes_are_known_by_their_shapes(size: str) -> None:
    """Shapes only: the tensors have no memory."""
    options = FAMILIES["hetercsi"].options
    with torch.device("meta"):
        weights = {
            "patch_embed.proj.weight": torch.empty({"published": 768, "base": 512}[size], 128),
            "decoder_embed.weight": torch.empty(512, 768),
        }
        for stack, depth, width, expansion in {
            "published": [("blocks", 8, 768, 4), ("decoder_blocks", 4, 512, 4)],
            "base": [("blocks", 6, 512, 2), ("decoder_blocks", 4, 512, 2)],
        }[size]:
            for layer in range(depth):
                weights[f"{stack}.{layer}.mlp.fc1.weight"] = torch.empty(expansion * width, width)
    assert options(weights, None) == {"size": size, "position": "flat"}


@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_the_published_token_holds_the_same_numbers_in_another_order(side: int) -> None:
    """The published tokeniser written down: parts interleaved along the subcarriers, blocks in row-major order."""
    channels = random_channels(2, 3 * side, 2 * side)
    matrices = channels[:, 0].swapaxes(1, 2)
    interleaved = np.stack([matrices.real, matrices.imag], axis=-1).reshape(2, 2 * side, 6 * side)
    rows = np.split(interleaved, 2, axis=1)
    blocks = [block.reshape(2, -1) for row in rows for block in np.split(row, 3, axis=2)]
    published = np.stack(blocks, axis=1)
    ours = make_spec("wimamba", {"patches": [side]}).tokenise(channels, side).values
    np.testing.assert_array_equal(published[..., published_order(side).numpy()], ours)


def spoiled(weights: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    first = next(iter(weights))
    if how == "missing":
        return {key: value for key, value in weights.items() if key != "decoder_norm.bias"}
    if how == "unknown":
        return {**weights, "cls_token": torch.zeros(1, 1, 96)}
    if how == "shape":
        return {**weights, "decoder_pred.bias": torch.zeros(64)}
    if how == "deeper":
        return {**weights, "blocks.7.norm1.bias": torch.zeros(96)}
    if how == "nan":
        return {**weights, first: torch.full_like(weights[first], torch.nan)}
    return {**weights, first: weights[first].long()}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "1 tensor does not fit hetercsi of size tiny: 'decoder_norm.bias' is missing"),
        ("unknown", "1 tensor does not fit hetercsi of size tiny: 'cls_token' is unknown"),
        ("shape", "1 tensor does not fit hetercsi of size tiny: 'decoder_pred.bias' is 64, expected 128"),
        ("deeper", r"no size has encoder 96 x 8, .*known: published \(encoder 768 x 8"),
        ("nan", "'mask_token' holds NaN or infinity"),
        ("integers", "'mask_token' is of type torch.int64"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_is_written(how: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "released.pth"
    torch.save(spoiled(released("hetercsi", MODELS["hetercsi"])[1], how), path)
    with pytest.raises(UserError, match=says) as error:
        import_released(path, "hetercsi", None, tmp_path / "export")
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_given_size_names_the_layers_that_are_missing(tmp_path: Path) -> None:
    weights = released("hetercsi", MODELS["hetercsi"])[1]
    torch.save({key: value for key, value in weights.items() if not key.startswith("blocks.3.")}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"16 tensors do not fit .*: first, 'blocks\.3\.norm1\.weight' is missing"):
        load_released(tmp_path / "a.pth", "hetercsi", "tiny")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("other", MODELS)
def test_another_network_is_recognised(name: str, other: str, tmp_path: Path) -> None:
    torch.save(released(other, MODELS[other])[1], tmp_path / "a.pth")
    if name == other:
        assert load_released(tmp_path / "a.pth", name).name == name
    else:
        with pytest.raises(UserError, match=f"so it is not {name}; it is {other}: --as {other}"):
            load_released(tmp_path / "a.pth", name)


class Trap:
    """Runs when it is unpickled by a reader that trusts its files."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("trapped"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {}, "trap": Trap()}, "holds objects of class"),
        ({"weights": [1, 2], "epoch": 3}, "holds no state dictionary, it has weights, epoch"),
        ({}, "holds no state dictionary"),
        ([torch.zeros(2)], "holds no state dictionary"),
    ],
)
def test_other_content_is_refused(content: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=says) as error:
        load_released(tmp_path / "a.pth", "hetercsi")
    assert "\n" not in str(error.value) and not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "pointer", "cut"])
def test_a_missing_or_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if damage == "cut":
        torch.save({"a": torch.zeros(1000)}, path) if name == "a.pth" else save_file({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:1500])
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=name) as error:
        load_released(path, "hetercsi")
    assert "\n" not in str(error.value)
    assert ("git lfs pull" in str(error.value)) == (damage == "pointer")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    torch.save(released("lwm", MODELS["lwm"])[1], tmp_path / "a.pth")
    with pytest.raises(UserError, match="is there already"):
        import_released(tmp_path / "a.pth", "lwm", None, tmp_path)
    (tmp_path / "empty").mkdir()
    import_released(tmp_path / "a.pth", "lwm", None, tmp_path / "empty")
    assert load_model(tmp_path / "empty")[0].name == "lwm"


def test_the_command_says_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs.cli.main import main

    torch.save(released("wimamba", MODELS["wimamba"])[1], tmp_path / "a.pth")
    command = [
        "wavetrain",
        "models",
        "import",
        str(tmp_path / "a.pth"),
        "--as",
        "wimamba",
        "--out",
        str(tmp_path / "e"),
    ]
    for code in (0, 2):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
    said = capsys.readouterr()
    assert "wimamba (size tiny, patches [2, 6], state 3, conv 2)" in said.out
    assert said.err.count("\n") == 1 and "is there already" in said.err
