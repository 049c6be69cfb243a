"""Real gloo ranks for tests: processes that stay and run one function after another.

They are forked from a server that has imported the engines once, so that a rank more costs next to nothing.
"""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

CASE_TIMEOUT_S = 240
START_TIMEOUT_S = 240
ENGINES = ["torch", "torch.distributed", "deepspeed", "orchestrator.training.worker"]
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "LOCAL_RANK": "0"}
"""Of the ranks and of their server, whose imports read it."""


def _context() -> Any:
    """Where ranks come from: the server is started with the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(ENGINES)
    return context


def _serve(rank: int, world: int, store: str, connection: Connection) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_SIZE": str(world)}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    connection.send(("ok", None))
    while (case := connection.recv()) is not None:
        function, arguments = case
        try:
            connection.send(("ok", function(*arguments)))
        except BaseException:
            connection.send(("error", traceback.format_exc()))
    dist.destroy_process_group()


class RankPool:
    """``world`` ranks of one process group, kept for many cases."""

    def __init__(self, world: int) -> None:
        context = _context()
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        self._ranks = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world, store, theirs), daemon=True)
            with patch.dict(os.environ, ENVIRONMENT):
                process.start()
            self._ranks.append((process, ours))
        self._collect(START_TIMEOUT_S)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results of ``function(*arguments)`` on every rank; a failure on one fails the test with its traceback."""
        for _, connection in self._ranks:
            connection.send((function, arguments))
        return self._collect(CASE_TIMEOUT_S)

    def _collect(self, timeout_s: float) -> list[Any]:
        results = []
        for rank, (_, connection) in enumerate(self._ranks):
            if not connection.poll(timeout_s):
                self.close()
                raise AssertionError(f"rank {rank} does not answer")
            results.append(connection.recv())
        failures = [text for kind, text in results if kind == "error"]
        assert not failures, failures[0]
        return [value for _, value in results]

    @property
    def alive(self) -> bool:
        """Whether every rank still runs."""
        return all(process.is_alive() for process, _ in self._ranks)

    def close(self) -> None:
        """End the processes."""
        for process, _ in self._ranks:
            process.kill()
            process.join()
        self._folder.cleanup()


class RankPools:
    """Pools by world size, started when first used."""

    def __init__(self) -> None:
        self._pools: dict[int, RankPool] = {}

    def __call__(self, world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run a case on ``world`` ranks."""
        if world not in self._pools or not self._pools[world].alive:
            self._pools[world] = RankPool(world)
        return self._pools[world].run(function, *arguments)

    def close(self) -> None:
        """End all ranks."""
        for pool in self._pools.values():
            if pool.alive:
                pool.close()
