"""GPT-2's first blocks as a layer of another network: from the library transformers, weights from a local folder."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from channels.errors import UserError

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of GPT-2's weights as they are published."""
PREFIX = "transformer."
"""What checkpoints with a language head put before every name."""


@dataclass(frozen=True, slots=True)
class Gpt2Size:
    """Blocks, width, heads; GPT-2 small has 12, 768 and 12."""

    layers: int
    width: int
    heads: int
    dropout: float


class Gpt2Blocks(nn.Module):
    """The first blocks of GPT-2 with its last norm, of which norms and positions are trained and all else is frozen."""

    def __init__(self, size: Gpt2Size) -> None:
        super().__init__()
        check_library()
        from transformers import GPT2Config, GPT2Model

        names = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
        config = GPT2Config(
            n_embd=size.width,
            n_layer=size.layers,
            n_head=size.heads,
            use_cache=False,
            # It gets vectors, no words.
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
            **dict.fromkeys(names, size.dropout),
        )
        self.gpt2 = GPT2Model(config)
        self.gpt2.wte = nn.Identity()
        for name, parameter in self.gpt2.named_parameters():
            parameter.requires_grad_(name.startswith("wpe") or "ln_" in name)

    def forward(self, states: Tensor) -> Tensor:
        """[n, length, width] of states [n, length, width], each step seeing those before it."""
        return cast(Tensor, self.gpt2(inputs_embeds=states).last_hidden_state)

    def load(self, folder: Path) -> None:
        """Take the weights of a folder with a published GPT-2; deeper blocks and words are left out.

        Raises:
            UserError: no such file, a damaged one, or a GPT-2 of another size.
        """
        path = _weights_file(folder)
        found = {name.removeprefix(PREFIX): value for name, value in _read(path).items()}
        own = self.gpt2.state_dict()
        for name, value in own.items():
            shape = tuple(found[name].shape) if name in found else None
            if shape != tuple(value.shape):
                what = f"{name} is {'missing' if shape is None else f'of shape {shape}, not {tuple(value.shape)}'}"
                mend = "GPT-2 small goes with width 768, heads 12 and at most 12 layers"
                raise UserError(what, where=str(path), mend=mend)
        self.gpt2.load_state_dict({name: found[name].float() for name in own})


def check_library() -> None:
    """Raises UserError where transformers is not installed."""
    if find_spec("transformers") is None:
        mend = "pip install 'wavetrain[baselines]', on every node"
        raise UserError("GPT-2's blocks need the package transformers", where="model.name llm4cp", mend=mend)


def check_folder(folder: Path) -> None:
    """Raises UserError where a folder has no weights of GPT-2."""
    _weights_file(folder)


def _weights_file(folder: Path) -> Path:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    mend = "download GPT-2 small (huggingface.co/openai-community/gpt2) and name its folder, or leave the option out"
    raise UserError(f"there is no {' or '.join(FILES)}", where=f"model.gpt2 {folder}", mend=mend)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        return cast(Mapping[str, Any], torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot be read ({reason})", where=str(path), mend="fetch the file again") from error
