from pathlib import Path

import pytest

from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from tests.orchestrator.report.recorded import a_run, attempt, step_event


@pytest.fixture
def broken_off(tmp_path: Path) -> RunDirectory:
    """Four steps, a checkpoint after the second, a kill; an hour later the last two again and one more."""
    stall = {"kind": "checkpoint", "step": 2, "metrics": {"perf/checkpoint_stall_ms": 250.0}}
    first = [attempt(0), step_event(1), step_event(2), step_event(3, beside_s=0.25), stall, step_event(4)]
    second = [attempt(2), {"kind": "warning", "text": "one was torn"}, step_event(3), step_event(4), step_event(5)]
    times = [0.0, 0.5, 1.0, 1.75, 1.75, 2.25, 3600.0, 3600.0, 3600.5, 3601.0, 3601.5]
    directory = a_run(tmp_path, [*first, *second], times)
    with EventWriter(directory.tracking) as writer:
        writer.write("begin", time=-1.0, submitted=None)
        writer.write("begin", time=3599.0, submitted=None)
    return directory
