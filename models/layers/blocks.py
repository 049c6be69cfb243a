"""The repeated blocks of a network, and what can be done to each: recomputing it in the backward pass, compiling it.

Neither renames a parameter: weights, optimizer groups and exports stay as they are.
"""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

GRAPHS = 512
"""Most graphs of the blocks: one for each length of padded batches, and for what each mask leaves of it."""


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Members of the network's module lists: the layers of its stacks."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return [block for blocks in lists for block in blocks]


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only each block's input; the backward pass computes what is inside again."""
    for block in repeated_blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(model: nn.Module, packed: bool = False) -> None:
    """Compile each block when first called, one graph a shape: the buckets have few, so none is left dynamic.

    Packed batches have another number of tokens at every step: one graph serves all of them. Blocks share their code
    and so the compiler's count of graphs, beyond which shapes run uncompiled; it is raised for this process. Modules
    with ``traceable = False`` run as they are inside compiled blocks.
    """
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, GRAPHS)
    for module in model.modules():
        if not getattr(module, "traceable", True):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign, no-untyped-call]
    for block in repeated_blocks(model):
        block.compile(dynamic=packed)
