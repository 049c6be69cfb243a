"""Encoding replayed from CUDA graphs: one launch for the thousands of kernels of a forward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.snapshot.model import SnapshotModel

WARM_UPS = 3
"""Calls before a capture: kernels are compiled and chosen, libraries make their workspaces."""


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph with the memory it reads and writes."""

    graph: torch.cuda.CUDAGraph
    channels: Tensor
    vectors: Tensor


class GraphedEncode:
    """``SnapshotModel.encode_channels`` from a graph for each shape of channels and each granularity.

    The first call of a shape captures it, which takes some forward passes. A graph reads the model's parameters where
    they lie: it sees their values change, but not a model that is moved or cast. Dropout is off if the model is in
    evaluation mode. On a CPU it encodes as the model does.
    """

    def __init__(self, model: SnapshotModel, most: int = 64) -> None:
        """most: graphs kept; the one not used for longest goes first."""
        self._model = model
        self._most = most
        self._captured: dict[tuple[tuple[int, ...], int], _Captured] = {}

    @torch.no_grad()
    def __call__(self, channels: Tensor, variant: int) -> Tensor:
        """As ``SnapshotModel.encode_channels``, without gradients. The result is the caller's own."""
        if channels.device.type != "cuda":
            return self._model.encode_channels(channels, variant)
        key = (tuple(channels.shape), variant)
        captured = self._captured.pop(key, None) or self._capture(channels, variant)
        self._captured[key] = captured
        if len(self._captured) > self._most:
            del self._captured[next(iter(self._captured))]
        captured.channels.copy_(channels)
        captured.graph.replay()
        return captured.vectors.clone()

    def _capture(self, channels: Tensor, variant: int) -> _Captured:
        held = channels.clone()
        aside = torch.cuda.Stream(channels.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(channels.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._model.encode_channels(held, variant)
        torch.cuda.current_stream(channels.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            vectors = self._model.encode_channels(held, variant)
        return _Captured(graph, held, vectors)
