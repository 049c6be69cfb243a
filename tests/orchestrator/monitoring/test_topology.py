"""Where a rank runs: the CPUs and the network card beside its GPU, from a sysfs that a test makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.monitoring.topology import as_ranges, cpus_for_rank, parse_ranges, place_of


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
