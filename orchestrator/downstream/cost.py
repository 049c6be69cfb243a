"""What encoding costs: time and memory of a few channels, as in Table I of the WiMamba paper."""

import json
import statistics
import time
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from channels.files import write_json
from orchestrator.downstream.embedding import METHOD, Batches
from orchestrator.downstream.encoders import Encoder
from orchestrator.downstream.pool import Pool
from orchestrator.downstream.results.scores import Cost, read_kept
from orchestrator.downstream.views import View

CHANNELS, WARM_UPS, REPEATS = 4, 2, 10
MB = 1e6


def cost_of(encoder: Encoder, pool: Pool, device: str, folder: Path) -> Cost:
    """Kept by an earlier call for the same weights, set and device, else measured now."""
    path = folder / "cost" / f"{encoder.key}.json"
    one = pool.sets[0]
    first = [[split, index[:CHANNELS].tolist()] for split, index in one.splits]
    key = json.dumps([METHOD, encoder.fingerprint(), pool.store.fingerprint, one.name, first, device])
    kept = read_kept(path, key)
    if kept is not None:
        return Cost(**kept["cost"])
    found = measure(encoder, pool, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": key, "cost": asdict(found)})
    return found


@torch.inference_mode()
def measure(encoder: Encoder, pool: Pool, device: str) -> Cost:
    """Of the first channels of the first set; cutting them into tokens is not counted."""
    spec, model = encoder.load()
    model = model.to(device)
    one = pool.sets[0]
    batches = Batches(pool, one, spec, encoder.patch, View())
    batch = batches.read(np.arange(min(CHANNELS, one.count)))[0].to(device)
    times = []
    for number in range(WARM_UPS + REPEATS):
        _wait(device)
        start = time.perf_counter()
        model.encode(batch)
        _wait(device)
        if number >= WARM_UPS:
            times.append(1e3 * (time.perf_counter() - start))
    with HeldMemory() as held:
        model.encode(batch)
    return Cost(
        encoder=encoder.name,
        patch=encoder.patch,
        tokens=spec.length(one.spec.shape, encoder.patch) * batches.per_stored,
        parameters=0 if encoder.folder is None else sum(part.numel() for part in model.parameters()),
        batch=len(batch.tokens) // batches.per_stored,
        ms=statistics.median(times),
        ms_deviation=statistics.stdev(times),
        memory_mb=held.most / MB,
        device=f"cpu, threads: {torch.get_num_threads()}" if device == "cpu" else torch.cuda.get_device_name(),
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class HeldMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside a ``with``: the most bytes held at a time by tensors that operations made, on any device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the memory of what it gives; a view holds none of its own."""
        given = {_address(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _address(value) not in given | self._known:
                self._hold(value.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._known.add(address)
        self.now += size
        self.most = max(self.most, self.now)

        def released() -> None:
            self._known.discard(address)
            self.now -= size

        weakref.finalize(storage, released)


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
