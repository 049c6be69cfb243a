"""What this rank holds of the training state, in terms that know no world size and no ZeRO stage.

A fragment is a range of one flattened parameter together with what the optimizer keeps of it: AdamW two moments, Muon
its momentum. Fragments have the names of their parameters, so no rank ever gathers a whole state: it saves the ranges
it holds and reads the ranges it needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from orchestrator.checkpoint import deepspeed_private as private
from orchestrator.checkpoint.deepspeed_private import MasterRange

WEIGHT = "weight"
"""Kind of the master weight."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Kinds of what AdamW keeps of it."""
MOMENTUM = ("momentum",)
"""And Muon, in the groups that have a momentum."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Live views of a range of one parameter."""

    name: str
    start: int
    """First element of the range in the flattened parameter."""
    tensors: dict[str, Tensor]
    """By kind; float32 [n], changes are changes of the training state."""

    @property
    def length(self) -> int:
        """Elements n."""
        return len(self.tensors[WEIGHT])

    def narrow(self, first: int, length: int) -> "Fragment":
        """A part of the range."""
        parts = {kind: tensor.narrow(0, first, length) for kind, tensor in self.tensors.items()}
        return Fragment(self.name, self.start + first, parts)


class TrainingState:
    """Master weights of a DeepSpeed engine and what its optimizer keeps of them, as fragments.

    A model must hold nothing else that training changes: buffers and frozen parameters follow from its specification,
    or from the weights that the run began with.
    """

    def __init__(self, engine: Any, rank: int, world: int) -> None:
        module = engine.module
        everything = dict(module.named_parameters())
        assert module.state_dict().keys() == everything.keys(), "a model with persistent buffers cannot be resumed"
        parameters = {name: parameter for name, parameter in everything.items() if parameter.requires_grad}
        self.sizes = {name: private.elements(tensor) for name, tensor in parameters.items()}
        """Elements of every parameter that is trained."""
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._optimizer = engine.optimizer
        self._stage = int(engine.zero_optimization_stage())
        self._rank, self._world = rank, world
        self._kinds = {
            master: MOMENTUM if "momentum" in group else MOMENTS
            for master, group in private.masters(self._optimizer, self._stage)
        }

    def held(self) -> list[Fragment]:
        """All that this rank trains with; the fragments of all ranks may overlap."""
        return list(map(self._fragment, private.ranges(self._optimizer, self._stage, list(self._names), self._rank)))

    def share(self) -> list[Fragment]:
        """What this rank saves: over all ranks every element exactly once."""
        held = self.held()
        return held if self._stage else [part for fragment in held for part in self._own_part(fragment)]

    @property
    def optimizer_step(self) -> int:
        """The optimizer's count, on which AdamW's bias correction depends."""
        return int(self._kept(next(iter(self._kinds)))["step"].item())

    def set_optimizer_step(self, step: int) -> None:
        """Put the optimizer's count to ``step``."""
        for master in self._kinds:
            self._kept(master)["step"].fill_(step)

    def publish(self) -> None:
        """Make the weights that the forward pass uses follow the master weights (collective)."""
        private.publish(self._optimizer, self._stage)

    def _own_part(self, fragment: Fragment) -> Iterator[Fragment]:
        first, last = (fragment.length * number // self._world for number in (self._rank, self._rank + 1))
        if last > first:
            yield fragment.narrow(first, last - first)

    def _kept(self, master: Tensor) -> dict[str, Tensor]:
        """The optimizer's state of a tensor, made as the optimizer makes it where there was no step yet."""
        optimizer = private.innermost(self._optimizer)
        state: dict[str, Tensor] = optimizer.state[master]
        if not state:
            state["step"] = torch.zeros((), device=master.device if optimizer.defaults["fused"] else "cpu")
            state |= {kind: torch.zeros_like(master) for kind in self._kinds[master]}
        return state

    def _fragment(self, held: MasterRange) -> Fragment:
        kept = self._kept(held.master)
        flats = {WEIGHT: held.master.detach(), **{kind: kept[kind] for kind in self._kinds[held.master]}}
        tensors = {kind: flat.view(-1).narrow(0, held.offset, held.length) for kind, flat in flats.items()}
        return Fragment(self._names[held.parameter], held.start, tensors)
