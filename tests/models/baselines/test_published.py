"""The published LSTM and Transformer, weight for weight."""

import torch
from torch import Tensor

from models.baselines.lstm import LstmPredictor
from models.baselines.transformer import TransformerPredictor, TransformerSpec
from tests.models.oracles import largest_gap, read_oracle

TOLERANCE = 1e-5


def weights_of(tensors: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    beginning = f"{model}/weights/"
    return {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}


def test_four_layers_are_the_lstm_of_the_public_code() -> None:
    tensors = read_oracle("baselines").tensors
    network = LstmPredictor(32, future=8, layers=4).eval()
    renamed = {name.removeprefix("model.").replace("coder.0.", "coder."): value
               for name, value in weights_of(tensors, "lstm").items()}  # fmt: skip
    network.load_state_dict(renamed)
    with torch.inference_mode():
        assert largest_gap(network(tensors["lstm/input"], 1), tensors["lstm/output"]) < TOLERANCE


RENAMED = (
    ("enc_embedding.value_embedding.tokenConv", "history_embedding.values"),
    ("dec_embedding.value_embedding.tokenConv", "future_embedding.values"),
    ("encoder.attn_layers", "encoder"), ("encoder.conv_layers", "distillations"), ("downConv", "convolution"),
    ("encoder.norm", "encoder_norm"), ("decoder.norm", "decoder_norm"), ("decoder.layers", "decoder"),
    ("conv1", "linear1"), ("conv2", "linear2"),
    ("cross_attention.", "multihead_attn."), (".self_attention.", ".self_attn."), (".attention.", ".self_attn."),
    ("query_projection.", "in_proj_"), ("out_projection", "out_proj"),
)  # fmt: skip
LEFT_OUT = ("position_embedding", "temporal_embedding", "key_projection", "value_projection")


def as_ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of ours; queries, keys and values in one matrix; convolutions over single steps as linear layers."""
    ours: dict[str, Tensor] = {}
    for name, value in weights.items():
        if any(part in name for part in LEFT_OUT):
            continue
        if "query_projection" in name:
            value = torch.cat([weights[name.replace("query", part)] for part in ("query", "key", "value")])
        # The last layer has the name of a part of others.
        renamed = name.replace("projection.", "head.") if name.startswith("projection.") else name
        for old, new in RENAMED:
            renamed = renamed.replace(old, new)
        ours[renamed] = value.squeeze(-1) if "linear" in renamed else value
    return ours


def test_batch_norm_makes_it_the_transformer_of_the_public_code() -> None:
    tensors = read_oracle("baselines").tensors
    options = {"width": 64, "feedforward": 64, "distil_norm": "batch", "slots": 16, "subcarriers": 16, "antennas": 1}
    network = TransformerPredictor(TransformerSpec(**options)).eval()
    network.load_state_dict(as_ours(weights_of(tensors, "transformer")))
    encoder_input = tensors["transformer/encoder_input"]
    with torch.inference_mode():
        given = network.decode(encoder_input, tensors["transformer/decoder_input"])
        assert largest_gap(given, tensors["transformer/output"]) < TOLERANCE
        # The decoder's input is made of the history alone, as published.
        assert torch.equal(network(encoder_input, 1), given)
