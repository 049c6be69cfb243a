"""What tracking costs a rank: time of a step's event and of a sample of the machine, as shares of a step.

The rest (MLflow's database or server) is in the controller's process; its time for a step is shown beside them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from parts.record import record

from orchestrator.monitoring.system_metrics import SystemSampler
from orchestrator.run.events import EventWriter, read_events
from orchestrator.spec.job import TrackingSection
from orchestrator.tracking.mlflow_run import Tracker

METRICS = {f"group/metric_{number}": number / 7 for number in range(16)}


def mean_ms(function: Callable[[], object], repeats: int) -> float:
    """Mean time of a call."""
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    return 1e3 * (time.perf_counter() - started) / repeats


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-ms", type=float, default=100.0, help="length of the step to compare with")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results.jsonl")
    arguments = parser.parse_args()
    every_ms = 1e3 * TrackingSection().system_every_s
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with EventWriter(folder / "events.jsonl") as events:
            event = mean_ms(lambda: events.write("step", step=1, metrics=METRICS), arguments.repeats)
        sample = mean_ms(SystemSampler().sample, arguments.repeats)
        found, _ = read_events(folder / "events.jsonl")
        tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "overhead", folder, "overhead", None)
        lines = [{**entry, "step": number} for number, entry in enumerate(found)]
        drain = mean_ms(lambda: tracker.drain(lines), 1) / len(lines)
    rows = [
        {"what": "event of a step, rank 0", "ms": event, "share_of_step": event / arguments.step_ms},
        {"what": "sample of the machine, thread", "ms": sample, "share_of_step": sample / every_ms},
        {"what": "MLflow (sqlite), controller", "ms": drain, "share_of_step": drain / arguments.step_ms},
    ]
    for row in rows:
        print(f"{row['what']:32} {row['ms']:8.3f} ms   {100 * row['share_of_step']:7.3f} %")
    if arguments.record:
        record("tracking_overhead", {"step_ms": arguments.step_ms, "repeats": arguments.repeats}, rows)


if __name__ == "__main__":
    main()
