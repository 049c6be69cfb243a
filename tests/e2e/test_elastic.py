"""A run on a cluster that loses a node and gets one back: fewer ranks, then more, the same training."""

import subprocess
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from orchestrator.control.ray_train.nodes import largest_world
from orchestrator.spec.job import JobSpec
from tests.e2e.raylets import RayletsProcess, add_node, connection, lose_node
from tests.e2e.runs import RUN_TIMEOUT_S, Place, train_without_ray
from tests.jobs_for_tests import small_job
from tests.ranks import RankPools

STEPS_OF_AN_ATTEMPT = 10


def test_worlds_divide_the_partitions() -> None:
    assert [largest_world(available, 8) for available in range(10)] == [0, 1, 2, 2, 4, 4, 4, 4, 8, 8]
    assert [largest_world(available, 6) for available in (3, 4, 5, 100)] == [3, 3, 3, 6]


@pytest.fixture
def raylets() -> Iterator[RayletsProcess]:
    with RayletsProcess(2) as cluster:
        yield cluster


@pytest.fixture
def place(raylets: RayletsProcess, tmp_path: Path) -> Place:
    address, environment = raylets(connection)
    profile = f"{{ray_address: '{address}', storage: {{runs: runs}}}}"
    (tmp_path / "cluster.yaml").write_text(f"default: here\nprofiles: {{here: {profile}}}\n")
    return Place(tmp_path, environment)


def elastic_job(store: Path) -> JobSpec:
    """Steps of many micro-batches, so that there is time to lose and find nodes; every 10th one is saved."""
    return small_job(
        store, "elastic", scale={"workers": [1, 2]}, checkpoint={"every_steps": 10}, batching={"micro_batch": 1},
        train={"epochs": 20, "lr": 1e-4, "zero_stage": 2},
    )  # fmt: skip


def wait_for_world(place: Place, attempt: int, world: int, process: "subprocess.Popen[str]") -> None:
    """Return once an attempt of that number or a later one trains on so many ranks."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while True:
        attempts = place.events("elastic", "attempt")
        if len(attempts) >= attempt and attempts[-1]["world"] == world:
            place.wait_for_step("elastic", attempts[-1]["step"] + STEPS_OF_AN_ATTEMPT, process)
            return
        if process.poll() is not None:
            pytest.fail("\n".join(process.communicate()))
        assert time.monotonic() < deadline, attempts
        time.sleep(0.1)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_lost_node_shrinks_the_run_and_a_returned_one_grows_it(
    raylets: RayletsProcess, place: Place, small_store: Path, ranks: RankPools
) -> None:
    job = elastic_job(small_store)
    process = place.start("train", str(place.spec(job)))
    wait_for_world(place, 1, 2, process)
    raylets(lose_node, 1)
    wait_for_world(place, 2, 1, process)
    raylets(add_node)
    wait_for_world(place, 3, 2, process)
    out, error = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == 0, (out, error)

    # A group may fail once more before the node is known to be lost.
    assert [world for world, _ in groupby(event["world"] for event in place.events("elastic", "attempt"))] == [2, 1, 2]
    assert "1 at the checkpoint, 2 now" in error
    for event in place.events("elastic", "epoch"):
        assert event["metrics"]["data/coverage"] == 1.0 and event["metrics"]["data/repeated"] == 0.0
    steps = [event["step"] for event in place.events("elastic")]
    grown = place.events("elastic", "attempt")[-1]["step"]
    assert steps.count(grown) == 1 and steps.count(grown + 1) == 1, "growing repeats no step"

    undisturbed = Place(place.folder / "undisturbed")
    train_without_ray(undisturbed.directory("elastic"), job, ranks, world=2)
    expected = undisturbed.losses("elastic")
    found = {event["step"]: event["metrics"]["train/loss"] for event in place.events("elastic")}
    assert found == pytest.approx(expected, rel=1e-4)
