"""Which weights Muon trains, and how many maps each holds."""

from typing import Any

import pytest

from channels.errors import UserError
from models.layers.blocks import repeated_blocks
from models.layers.matrices import block_matrices
from models.layers.parameters import freeze
from models.registry import make_spec

BLOCK = {"attention.qkv": 3, "attention.proj": 1, "mlp.0": 1, "mlp.2": 1}


def found(name: str, options: dict[str, Any], *frozen: str) -> dict[str, tuple[int, int, int]]:
    model = make_spec(name, options).build(seed=0)
    freeze(model, frozen)
    shapes = block_matrices(model)
    return {name: shapes[parameter] for name, parameter in model.named_parameters() if parameter in shapes}


def test_all_maps_of_the_blocks_are_found_and_nothing_else() -> None:
    shapes = found("hetercsi", {"size": "tiny"})
    stacks = (("encoder", 4), ("decoder", 2))
    assert shapes.keys() == {
        f"{stack}.blocks.{block}.{part}.weight" for stack, depth in stacks for block in range(depth) for part in BLOCK
    }
    assert shapes["encoder.blocks.0.attention.qkv.weight"] == (3, 96, 96)
    assert shapes["decoder.blocks.1.mlp.0.weight"] == (1, 256, 64)
    assert shapes["decoder.blocks.1.mlp.2.weight"] == (1, 64, 256)


def test_frozen_maps_are_left_out() -> None:
    assert all(name.startswith("decoder.") for name in found("hetercsi", {"size": "tiny"}, "encoder"))


@pytest.mark.parametrize(
    ("name", "options", "in_a_layer"),
    [
        ("wifo", {"size": "tiny"}, 4),
        ("lwm", {"size": "tiny", "patches": [2]}, 4),
        ("bert4mimo", {"size": "tiny", "antennas": 4}, 4),
    ],
)
def test_every_layer_has_as_many(name: str, options: dict[str, Any], in_a_layer: int) -> None:
    model = make_spec(name, options).build(seed=0)
    shapes = block_matrices(model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    blocks = repeated_blocks(model)
    assert [sum(parameter in shapes for parameter in block.parameters()) for block in blocks] == [in_a_layer] * len(
        blocks
    )
    assert all(shape[0] == (3 if "qkv" in names[parameter] else 1) for parameter, shape in shapes.items())


def test_torchs_own_attention_counts_as_three_maps() -> None:
    shapes = found("transformer", {"slots": 8, "subcarriers": 4, "antennas": 2, "width": 16, "heads": 2})
    assert shapes["predictor.encoder.0.self_attn.in_proj_weight"] == (3, 16, 16)


def test_a_model_without_blocks_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"train\.optimizer: no weight is there for Muon") as error:
        found("hetercsi", {"size": "tiny"}, "encoder", "decoder")
    assert "\n" not in str(error.value)
