"""From published tensors to ours: which ones become which, checked by name and shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from channels.errors import UserError

TensorShape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """ours: name of one of our tensors. parts: the published tensors that form it, joined along the first axis.

    shape: of each part where ours has more axes or fewer; None for equal slices of ours along the first axis. order:
    int64, for each index of our tensor's axis ``axis`` the index in the published one; None for the same order.
    """

    ours: str
    parts: tuple[str, ...]
    shape: TensorShape | None = None
    order: Tensor | None = None
    axis: int = 0

    def part_shape(self, ours: TensorShape) -> TensorShape:
        """Shape of each part, given that of our tensor."""
        return self.shape or (ours[0] // len(self.parts), *ours[1:])

    def join(self, weights: Mapping[str, Tensor], ours: TensorShape) -> Tensor:
        """Our tensor, contiguous and of its own memory."""
        joined = torch.cat([weights[part] for part in self.parts]).reshape(ours)
        return joined if self.order is None else joined.index_select(self.axis, self.order)


def translate(
    weights: Mapping[str, Tensor], rules: Sequence[Rule], shapes: Mapping[str, TensorShape], what: str
) -> dict[str, Tensor]:
    """Our state dictionary. shapes: of all our tensors, each of which has a rule. what: the network, for the message.

    Raises:
        UserError: tensors that are missing, unknown or of another shape, counted, and the first one by name.
    """
    assert sorted(rule.ours for rule in rules) == sorted(shapes), "a rule for each of our tensors"
    wanted = {part: rule.part_shape(shapes[rule.ours]) for rule in rules for part in rule.parts}
    problems = [f"{name!r} is missing" for name in wanted if name not in weights]
    problems += [f"{name!r} is unknown" for name in weights if name not in wanted]
    problems += [
        f"{name!r} is {_text(weights[name].shape)}, expected {_text(shape)}"
        for name, shape in wanted.items()
        if name in weights and weights[name].shape != shape
    ]
    if problems:
        count = "1 tensor does" if len(problems) == 1 else f"{len(problems)} tensors do"
        raise UserError(f"{count} not fit {what}: {'' if len(problems) == 1 else 'first, '}{problems[0]}")
    return {rule.ours: rule.join(weights, shapes[rule.ours]) for rule in rules}


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"
