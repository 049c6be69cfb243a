"""Sizes of HeterCSI."""

from models.autoencoder.sizes import Size, StackSize


def network_size(name: str) -> Size:
    """``published``: 69,874,048 parameters; ``base``: 21,424,768 (as WiFo-Base); ``tiny``: for a CPU core."""
    sizes = {
        "published": Size(StackSize(768, 8, 12, 4), StackSize(512, 4, 16, 4)),
        "base": Size(StackSize(512, 6, 8, 2), StackSize(512, 4, 8, 2)),
        "tiny": Size(StackSize(96, 4, 4, 4), StackSize(64, 2, 4, 4)),
    }
    return sizes[name]
