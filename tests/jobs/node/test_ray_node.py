"""A node's Ray, as far as it is seen without one."""

from pathlib import Path

import pytest

from jobs.node import own_processes, ray_node
from jobs.node.ray_node import RayNode, Share
from jobs.node.rendezvous import BootstrapError, JobNode, Rendezvous
from tests.jobs.launches import slurm_profile


def test_what_workers_import_is_imported_while_a_node_waits_for_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(ray_node, "interface_address", lambda interface: "127.0.0.1")
    monkeypatch.setattr(own_processes, "start", lambda command, environment, log: started.append(command))
    profile = slurm_profile(tmp_path).model_copy(update={"device": "cpu"})
    node = RayNode(Rendezvous(tmp_path / "41-0", JobNode(41, 0, 1, ("n1", "n2"))), profile, Share(1, 0))
    node.timeout_s = 0
    try:
        with pytest.raises(BootstrapError, match=r"node 0 \(n1\) has not started the Ray head"):
            node.start()
    finally:
        node.window.release()
        node.session.remove()
    assert len(started) == 1 and "fork_server" in " ".join(started[0])
