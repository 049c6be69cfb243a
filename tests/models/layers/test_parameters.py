from typing import Any

import pytest
import torch

from channels.errors import UserError
from models.interface import PretrainingModel
from models.layers.parameters import cast_parameters, count_parameters, freeze, layer_scales, optimizer_groups
from models.registry import make_spec


def test_norms_and_biases_do_not_decay_and_the_rest_does():
    model = make_spec("hetercsi", {"size": "tiny"}).build(seed=0)
    decayed, plain = optimizer_groups(model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert all("bias" in names[p] or "norm" in names[p] for p in plain["params"])
    assert all(names[p].endswith(".weight") or names[p] == "mask_token" for p in decayed["params"])
    assert not any("norm" in names[p] for p in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    torch.optim.AdamW(optimizer_groups(model, 0.05), lr=1e-3)


def test_frozen_parameters_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    model[0].requires_grad_(False)
    assert count_parameters(model) == 25
    assert [len(group["params"]) for group in optimizer_groups(model, 0.1)] == [1, 1]


def test_a_frozen_part_is_out_of_all_groups() -> None:
    model = make_spec("hetercsi", {"size": "tiny"}).build(seed=0)
    freeze(model, ["encoder", "decoder.blocks.0", "mask_token"])
    trained = {id(parameter) for group in optimizer_groups(model, 0.05) for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("encoder.", "decoder.blocks.0.")) or name == "mask_token"
        assert (id(parameter) in trained) != frozen, name
    assert model.decoder_embedding.weight.requires_grad


@pytest.mark.parametrize(
    ("prefixes", "says"),
    [
        (["encoder", "encodr"], "train.freeze: the model has no parameters 'encodr'; it has mask_token, patch_embed"),
        (["enc"], "no parameters 'enc'"),
        (["encoder.blocks.4"], "no parameters 'encoder.blocks.4'"),
        (["mask_token", "patch_embedding", "encoder", "decoder_embedding", "decoder", "head"], "nothing is left"),
    ],
)
def test_parts_that_are_not_there_are_refused_in_one_line(prefixes: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        freeze(make_spec("hetercsi", {"size": "tiny"}).build(seed=0), prefixes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        ("hetercsi", {"size": "tiny"}, 1 + 4 + 1 + 2 + 1),
        ("hetercsi", {"size": "tiny", "position": "rotary"}, 1 + 4 + 1 + 2 + 1),
        ("wifo", {"size": "tiny"}, 1 + 6 + 1 + 4 + 1),
        ("wimamba", {"size": "tiny", "patches": [4]}, 1 + 4 + 1),
        ("lwm", {"size": "tiny", "patches": [2, 4]}, 1 + 4 + 1),
        ("raw", {"patches": [4]}, 3),
        ("bert4mimo", {"size": "tiny", "antennas": 4}, 1 + 2 + 1),
    ],
)
def test_every_parameter_has_its_layer(name: str, options: dict[str, Any], layers: int) -> None:
    model = make_spec(name, options).build(seed=0)
    assert len(model.layers()) == layers
    scales = layer_scales(model, 0.5)
    assert scales.keys() == dict(model.named_parameters()).keys()
    assert (max(scales.values()) == 1.0 and min(scales.values()) == 0.5 ** (layers - 1)) or name == "raw"


def test_layers_before_the_last_one_learn_slower_and_keep_their_weight_decay() -> None:
    model = make_spec("wifo", {"size": "tiny"}).build(seed=0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optimizer_groups(model, 0.05, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(names)
    scale = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scale["head.weight"] == scale["decoder.norm.bias"] == 1
    assert scale["decoder.blocks.3.mlp.0.weight"] == 0.5
    assert scale["mask_token"] == scale["decoder_embedding.bias"] == 0.5**5
    assert scale["encoder.blocks.5.norm1.weight"] == 0.5**6
    assert scale["patch_embedding.weight"] == 0.5**12
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


def test_frequencies_of_positions_do_not_decay_and_stay_float32() -> None:
    model = make_spec("hetercsi", {"size": "tiny", "position": "rotary"}).build(seed=0)
    _, plain = optimizer_groups(model, 0.05)
    names = ("encoder.rotary.frequencies", "decoder.rotary.frequencies")
    frequencies = [parameter for name, parameter in model.named_parameters() if name in names]
    assert len(frequencies) == 2 and plain["weight_decay"] == 0
    assert {id(one) for one in frequencies} <= {id(parameter) for parameter in plain["params"]}
    scales = layer_scales(model, 0.5)
    assert [scales[name] for name in names] == [scales["patch_embedding.weight"], scales["decoder_embedding.weight"]]
    cast_parameters(model, torch.bfloat16)
    assert {one.dtype for one in frequencies} == {torch.float32} and model.mask_token.dtype == torch.bfloat16
    freeze(model, ["encoder.rotary"])
    assert [one.requires_grad for one in frequencies] == [False, True]


def test_a_model_without_layers_is_refused() -> None:
    class Plain(PretrainingModel):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(2, 2)

    with pytest.raises(UserError, match=r"train\.layer_lr_decay: .* in which layer 'head\.weight' is"):
        optimizer_groups(Plain(), 0.05, layer_decay=0.9)
