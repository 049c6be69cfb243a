"""Where a rank runs: the CPUs and the network card beside its GPU, from a sysfs that a test makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.monitoring.topology import as_ranges, cpus_for_rank, own_card, parse_ranges, place_of, use_card
from tests.orchestrator.monitoring.machines import Machine, two_sockets


def make_sysfs(root: Path) -> Path:
    """Two switches on two NUMA nodes, each with a GPU, an RDMA card and a plain network card."""
    for numa, (switch, gpu, card) in enumerate((("17", "1b", "18"), ("97", "9b", "98"))):
        bridge = root / "devices" / f"pci0000:{switch}"
        for address in (gpu, card):
            folder = bridge / f"0000:{address}:00.0"
            folder.mkdir(parents=True)
            (folder / "numa_node").write_text(f"{numa}\n")
            (folder / "local_cpulist").write_text(f"{4 * numa}-{4 * numa + 3}\n")
            link = root / "bus" / "pci" / "devices" / folder.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)
        for kind, name in (("infiniband", f"mlx5_{numa}"), ("net", f"eth{numa}")):
            entry = root / "class" / kind / name
            entry.mkdir(parents=True)
            (entry / "device").symlink_to(bridge / f"0000:{card}:00.0")
    return root


def test_a_gpu_has_the_cpus_of_its_numa_node_and_the_card_of_its_switch(tmp_path: Path) -> None:
    place = place_of("0000:9b:00.0", make_sysfs(tmp_path))
    assert (place.numa, place.cpus, place.nics) == (1, frozenset({4, 5, 6, 7}), ("mlx5_1",))
    assert str(place) == "NUMA node 1, CPUs 4-7, NIC mlx5_1"


def test_of_a_device_that_is_not_there_nothing_is_known(tmp_path: Path) -> None:
    place = place_of("0000:ff:00.0", make_sysfs(tmp_path))
    assert (place.numa, place.cpus, place.nics) == (None, frozenset(), ())
    assert str(place) == "no NUMA node, CPUs unknown, NIC unknown"


def test_every_gpu_has_the_card_of_its_own_switch(tmp_path: Path) -> None:
    machine = two_sockets(tmp_path, switches=True)
    assert [own_card(gpu, machine.root) for gpu in machine.gpus] == [f"mlx5_{number}:1" for number in range(8)]
    assert [place_of(gpu, machine.root).nics for gpu in machine.gpus] == [(f"mlx5_{number}",) for number in range(8)]


def test_without_switches_the_gpus_of_a_numa_node_are_dealt_its_cards(tmp_path: Path) -> None:
    machine = two_sockets(tmp_path, switches=False)
    assert [own_card(gpu, machine.root) for gpu in machine.gpus] == [f"mlx5_{number}:1" for number in range(8)]
    assert place_of(machine.gpus[5], machine.root).nics == ("mlx5_4", "mlx5_5", "mlx5_6", "mlx5_7")


def test_cards_are_dealt_in_the_order_of_the_bus_whatever_they_are_called(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    gpus = [machine.gpu(f"pci0000:1{number}/0000:1{number}:00.0", numa=0) for number in range(4)]
    for number, name in enumerate(("mlx5_9", "mlx5_10", "ibp3s0")):
        machine.card(f"pci0000:2{number}/0000:2{number}:00.0", name, numa=0)
    assert [own_card(gpu, tmp_path) for gpu in gpus] == ["mlx5_9:1", "mlx5_10:1", "ibp3s0:1", "mlx5_9:1"]


def test_a_card_without_a_link_is_replaced_by_the_next_one_and_the_other_gpus_keep_theirs(tmp_path: Path) -> None:
    machine = two_sockets(tmp_path, switches=False)
    machine.set_port("mlx5_1", 1, "1: DOWN")
    machine.set_port("mlx5_5", 2, "4: ACTIVE")
    found = [own_card(gpu, tmp_path) for gpu in machine.gpus]
    assert found[:4] == ["mlx5_0:1", "mlx5_2:1", "mlx5_2:1", "mlx5_3:1"]
    assert found[5] == "mlx5_5:1,mlx5_5:2", "all ports of a card"
    for number in range(4, 8):
        machine.set_port(f"mlx5_{number}", 1, "2: INIT")
    machine.set_port("mlx5_5", 2, "1: DOWN")
    assert own_card(machine.gpus[5], tmp_path) is None


def test_a_card_of_another_numa_node_is_nobodys_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    here, there = machine.gpu("pci0000:17/0000:1b:00.0", numa=0), machine.gpu("pci0000:97/0000:9b:00.0", numa=1)
    machine.card("pci0000:a7/0000:a8:00.0", "mlx5_0", numa=1)
    assert (own_card(here, tmp_path), own_card(there, tmp_path)) == (None, "mlx5_0:1")
    assert place_of(here, tmp_path).nics == ("mlx5_0",), "it is the nearest all the same"


def test_without_rdma_no_card_is_chosen(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    gpu = machine.gpu("pci0000:17/0000:1b:00.0", numa=0)
    machine.card("pci0000:17/0000:18:00.0", "eth0", numa=0, kind="net")
    assert own_card(gpu, tmp_path) is None and place_of(gpu, tmp_path).nics == ("eth0",)
    assert own_card("0000:ff:00.0", tmp_path) is None, "and nothing of a device that is not there"


def test_a_card_is_asked_for_by_its_exact_name_and_never_over_the_users_choice() -> None:
    empty: dict[str, str] = {}
    use_card("mlx5_1:1", empty)
    assert empty == {"NCCL_IB_HCA": "=mlx5_1:1"}
    chosen = {"NCCL_IB_HCA": "mlx5"}
    use_card("mlx5_1:1", chosen)
    assert chosen == {"NCCL_IB_HCA": "mlx5"}
    nothing: dict[str, str] = {}
    use_card(None, nothing)
    assert nothing == {}


@pytest.mark.parametrize("text", ["", "3", "0-3,8", "0-1,4-5,7"])
def test_ranges_read_and_written(text: str) -> None:
    assert as_ranges(parse_ranges(text)) == text


@pytest.mark.parametrize(
    ("beside", "allowed", "first", "expected"),
    [
        ("0-3", "0-7", False, "0-3"),
        ("0-3", "0-7", True, "1-3"),
        ("4-7", "0-7", True, "4-7"),
        ("0-3", "2-7", True, "3"),
        ("0-3", "4-7", False, "4-7"),
        ("", "0-3", True, "1-3"),
        ("0-3", "0", True, "0"),
    ],
)
def test_a_rank_stays_beside_its_gpu_and_leaves_the_controller_a_cpu(
    beside: str, allowed: str, first: bool, expected: str
) -> None:
    found = cpus_for_rank(frozenset(parse_ranges(beside)), frozenset(parse_ranges(allowed)), on_first_node=first)
    assert as_ranges(found) == expected


def test_threads_that_run_already_are_bound_too() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU")
    program = (
        "import json, os, threading\n"
        "from orchestrator.monitoring.topology import bind_process\n"
        "go, seen = threading.Event(), []\n"
        "def look():\n    go.wait(30)\n    seen.append(sorted(os.sched_getaffinity(0)))\n"
        "thread = threading.Thread(target=look)\nthread.start()\n"
        "cpu = min(os.sched_getaffinity(0))\nbind_process(frozenset({cpu}))\ngo.set()\nthread.join()\n"
        "print(json.dumps([[cpu], *seen]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    bound, seen = json.loads(done.stdout)
    assert seen == bound
