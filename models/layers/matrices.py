"""The weights of a network's blocks that are linear maps from features to features; Muon is for these."""

from torch import nn

from channels.errors import UserError
from models.layers.blocks import repeated_blocks

Shape = tuple[int, int, int]
"""[maps, rows, columns] of a weight that holds maps one below the other."""


def block_matrices(model: nn.Module) -> dict[nn.Parameter, Shape]:
    """Weights of the linear layers in the repeated blocks that are trained, each with its shape [maps, rows, columns].

    A module names the layers whose weight is several maps in its attribute ``stacked``, as attention does with queries,
    keys and values. All else (embeddings, heads, norms, biases, what a scan holds) is left out, whatever its shape.

    Raises:
        UserError: there is none.
    """
    maps: dict[nn.Parameter, int] = {}
    for module in (module for block in repeated_blocks(model) for module in block.modules()):
        stacked = getattr(module, "stacked", {})
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                assert isinstance(child.weight, nn.Parameter)
                maps[child.weight] = stacked.get(name, 1)
        if isinstance(module, nn.MultiheadAttention) and isinstance(module.in_proj_weight, nn.Parameter):
            maps[module.in_proj_weight] = 3
    shapes = {
        weight: (count, weight.shape[0] // count, weight.shape[1])
        for weight, count in maps.items()
        if weight.requires_grad
    }
    if not shapes:
        what = "no weight is there for Muon, which trains the linear layers in a model's blocks"
        raise UserError(what, where="train.optimizer", mend="use adamw")
    return shapes
