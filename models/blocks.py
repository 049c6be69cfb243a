"""The repeated blocks of a network, and what can be done to each: recomputing it in the backward pass, compiling it.

Neither renames a parameter: weights, optimizer groups and exports stay as they are.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Members of the network's module lists: the layers of its stacks."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return [block for blocks in lists for block in blocks]


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only each block's input; what is inside is computed again when its gradient is asked for."""
    for block in repeated_blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(model: nn.Module) -> None:
    """Compile each block when first called, one graph a shape: the buckets have few, so none is left dynamic."""
    for block in repeated_blocks(model):
        block.compile(dynamic=False)
