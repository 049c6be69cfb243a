"""What this rank holds of the training state, in terms that know no world size and no ZeRO stage.

A fragment is a range of one flattened parameter together with AdamW's two moments of it. DeepSpeed keeps them in flat
buffers that follow from rank and stage; here they are found and named, so that no rank ever gathers a whole state: it
saves the ranges it holds and reads the ranges it needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KINDS = ("weight", "exp_avg", "exp_avg_sq")
"""Master weight and AdamW's moments, all float32."""


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
        return len(self.tensors["weight"])

    def narrow(self, first: int, length: int) -> "Fragment":
        """A part of the range."""
        parts = {kind: tensor.narrow(0, first, length) for kind, tensor in self.tensors.items()}
        return Fragment(self.name, self.start + first, parts)


class TrainingState:
    """Master weights and moments of a DeepSpeed engine, as fragments. A model must hold nothing else that training
    changes: buffers and frozen parameters follow from its specification."""

    def __init__(self, engine: Any, rank: int, world: int) -> None:
        module = engine.module
        parameters = dict(module.named_parameters())
        assert module.state_dict().keys() == parameters.keys(), "a model with persistent buffers cannot be resumed"
        self.sizes = {name: int(getattr(tensor, "ds_numel", tensor.numel())) for name, tensor in parameters.items()}
        """Elements of every parameter."""
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._optimizer = engine.optimizer
        self._stage = int(engine.zero_optimization_stage())
        self._rank, self._world = rank, world

    def held(self) -> list[Fragment]:
        """All that this rank trains with; the fragments of all ranks may overlap."""
        by_stage = (self._replicated, self._flat, self._flat, self._scattered)
        return list(by_stage[self._stage]())

    def share(self) -> list[Fragment]:
        """What this rank saves: over all ranks every element exactly once."""
        held = self.held()
        return held if self._stage else [part for fragment in held for part in self._own_part(fragment)]

    @property
    def optimizer_step(self) -> int:
        """AdamW's count, on which its bias correction depends."""
        return int(self._moments(self._masters()[0])["step"].item())

    def set_optimizer_step(self, step: int) -> None:
        """Put AdamW's count to ``step``."""
        for master in self._masters():
            self._moments(master)["step"].fill_(step)

    def publish(self) -> None:
        """Make the weights that the forward pass uses follow the master weights (collective)."""
        optimizer = self._optimizer
        with torch.no_grad():
            if self._stage == 3:
                for group in range(len(optimizer.fp32_partitioned_groups_flat)):
                    optimizer._reassign_or_swap_out_partitioned_parameters(group)
                optimizer.checkpoint_event_epilogue()
            elif self._stage:
                optimizer.update_lp_params()
            else:
                for parameter, master in self._replicas():
                    parameter.copy_(master)

    def _own_part(self, fragment: Fragment) -> Iterator[Fragment]:
        first, last = (fragment.length * number // self._world for number in (self._rank, self._rank + 1))
        if last > first:
            yield fragment.narrow(first, last - first)

    def _masters(self) -> list[Tensor]:
        """The tensors that AdamW steps."""
        if self._stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        if self._stage:
            return list(self._optimizer.single_partition_of_fp32_groups)
        return [master for _, master in self._replicas()]

    def _moments(self, master: Tensor) -> dict[str, Tensor]:
        """AdamW's state of a tensor, made as AdamW makes it where there was no step yet."""
        inner = getattr(self._optimizer, "optimizer", self._optimizer)
        state: dict[str, Tensor] = inner.state[master]
        if not state:
            state["step"] = torch.zeros((), device=master.device if inner.defaults["fused"] else "cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(master), torch.zeros_like(master)
        return state

    def _fragment(self, name: str, start: int, master: Tensor, offset: int, length: int) -> Fragment:
        flats = {"weight": master.detach(), **{kind: self._moments(master)[kind] for kind in KINDS[1:]}}
        return Fragment(name, start, {kind: flat.view(-1).narrow(0, offset, length) for kind, flat in flats.items()})

    def _replicas(self) -> list[tuple[Tensor, Tensor]]:
        """Stage 0: (parameter, master) pairs; in fp32 a parameter is its own master."""
        optimizer = self._optimizer
        if isinstance(optimizer, torch.optim.Optimizer):
            return [(parameter, parameter) for group in optimizer.param_groups for parameter in group["params"]]
        groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        return [pair for low, high in groups for pair in zip(low, high, strict=True)]

    def _replicated(self) -> Iterator[Fragment]:
        for parameter, master in self._replicas():
            yield self._fragment(self._names[parameter], 0, master, 0, master.numel())

    def _flat(self) -> Iterator[Fragment]:
        """Stages 1 and 2: one flat buffer a group, cut into as many ranges as ranks."""
        optimizer = self._optimizer
        for flat, group in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
            for parameter in group:
                mapping = parameter._hp_mapping
                if mapping is not None:
                    inside, within = mapping.hp_fragment_address, mapping.lp_fragment_address
                    name = self._names[parameter]
                    yield self._fragment(name, within.start, flat, inside.start, inside.numel)

    def _scattered(self) -> Iterator[Fragment]:
        """Stage 3: every parameter is cut into as many ranges as ranks, the last ones padded."""
        optimizer = self._optimizer
        for parameter, name in self._names.items():
            group, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = self._rank * padded
            length = min(padded, self.sizes[name] - start)
            if length > 0:
                master = optimizer.fp32_partitioned_groups_flat[group]
                yield self._fragment(name, start, master, offset, length)
