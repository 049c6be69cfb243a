"""How fast ranks exchange data: an all-reduce over all of them, and every node against the others.

In a collective all ranks wait for the slowest, so it does not show which node that is. Exchanges between pairs of nodes
can: a node is as fast as its best exchange, and one with a bad cable is slow with everybody. First one rank a node
exchanges, which has the wires for itself; then all ranks do at once, each with those of its own number on other nodes,
so that every network card of a node carries its own rank's data.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from jobs.node.rank_result import Bandwidth, Rail

MEGABYTES = 16
REPEATS = 3
ROUNDS = 7


def measure(device: torch.device, host: str, nic: str | None = None, megabytes: int = MEGABYTES) -> Bandwidth:
    """Measure in the default process group; every rank gets the result.

    host: name of this rank's node. nic: network card beside its device, where known.

    Raises:
        RuntimeError: a sum came out wrong.
    """
    world = dist.get_world_size()
    found: list[Any] = [None] * world
    dist.all_gather_object(found, (host, nic))
    hosts = [name for name, _ in found]
    payload = torch.ones(megabytes * 2**18, dtype=torch.float32, device=device)
    reduced = _all_reduce(payload)
    names = list(dict.fromkeys(hosts))
    best = _best_exchange(payload, [hosts.index(name) for name in names])
    rail = _best_exchange(payload, own_rail(hosts, dist.get_rank())) if have_rails(hosts) else None
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, (reduced, best, rail))
    nodes = {name: gathered[hosts.index(name)][1] for name in names} if len(names) > 1 else {}
    rails = tuple(
        Rail(name, rank, hosts[:rank].count(name), card, gathered[rank][2])
        for rank, (name, card) in enumerate(found)
        if gathered[rank][2] is not None
    )
    return Bandwidth(world, min(rate for rate, _, _ in gathered), nodes, rails)


def have_rails(hosts: Sequence[str]) -> bool:
    """Whether there are several nodes, with several ranks each and as many on all. hosts: of the ranks."""
    counts = {hosts.count(name) for name in hosts}
    return len(set(hosts)) > 1 and len(counts) == 1 and counts != {1}


def own_rail(hosts: Sequence[str], rank: int) -> list[int]:
    """Ranks with the same number on their nodes as this one has on its own, itself included."""
    numbers = [hosts[:other].count(hosts[other]) for other in range(len(hosts))]
    return [other for other, number in enumerate(numbers) if number == numbers[rank]]


def _all_reduce(payload: Tensor) -> float:
    """GB/s of the bus, from the fastest of some repetitions."""
    world, seconds = dist.get_world_size(), []
    for _ in range(REPEATS + 1):
        payload.fill_(1.0)
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(payload)
        _finish(payload)
        seconds.append(time.perf_counter() - started)
    if not bool((payload == world).all()):
        raise RuntimeError(f"an all-reduce of ones over {world} ranks gives {payload.min():g} to {payload.max():g}")
    share = 2 * (world - 1) / world if world > 1 else 1.0
    return payload.nbytes * share / min(seconds[1:]) / 1e9


def _best_exchange(payload: Tensor, players: list[int]) -> float | None:
    """GB/s of this rank's best exchange, in rounds of disjoint pairs; None for a rank that is none of ``players``."""
    rank, received = dist.get_rank(), torch.empty_like(payload)
    rates = []
    for pairs in rounds(players)[:ROUNDS]:
        dist.barrier()
        partner = next((one if other == rank else other for one, other in pairs if rank in (one, other)), None)
        if partner is not None:
            exchange(payload[:1024], received[:1024], partner)
            started = time.perf_counter()
            exchange(payload, received, partner)
            rates.append(payload.nbytes / (time.perf_counter() - started) / 1e9)
    return max(rates, default=None)


def exchange(payload: Tensor, received: Tensor, partner: int) -> None:
    """Send to and receive from another rank at once."""
    both = [dist.P2POp(dist.isend, payload, partner), dist.P2POp(dist.irecv, received, partner)]
    for request in dist.batch_isend_irecv(both):
        request.wait()
    _finish(received)


def rounds(players: list[int]) -> list[list[tuple[int, int]]]:
    """Every pair once, in rounds of disjoint pairs (round-robin by the circle method)."""
    circle: list[int | None] = [*players, *([None] if len(players) % 2 else [])]
    found = []
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        found.append([(one, other) for one, other in pairs if one is not None and other is not None])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return found


def _finish(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
