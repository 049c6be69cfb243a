"""A run on a terminal: progress of the epoch, loss, speed, padding, health of the nodes, warnings."""

from collections.abc import Mapping
from typing import Any

from orchestrator.run.progress import NodeHealth, RunProgress, clock, scores_in_words, sparkline

SPARKLINE_WIDTH = 48
COLUMNS = ("CPU", "memory", "GPU", "GPU memory", "received", "sent")
SILENT_S = 150.0
"""A node that has not been heard of for so long is marked."""


def make_panel(progress: RunProgress, title: str, now: float, state: str = "") -> Any:
    """A rich renderable. now: seconds since 1970. state: what the launcher says, beside the title."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    parts = [_numbers(progress)]
    if progress.nodes:
        parts.append(_nodes(progress.nodes, now, sampled=progress.step < progress.total_steps))
    parts += [_warning(text) for text in progress.warnings]
    where = f"{progress.world} ranks on {progress.device}" if progress.world else ""
    attempt = f"attempt {progress.attempts}" if progress.attempts > 1 else ""
    heading = " · ".join(part for part in (title, where, attempt, state) if part)
    return Panel(Group(*parts), title=Text(heading), title_align="left", border_style="blue", padding=(0, 1))


def _numbers(progress: RunProgress) -> Any:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="crop")
    grid.add_row("run", _run_line(progress))
    if progress.last:
        grid.add_row("epoch", _epoch_line(progress))
        grid.add_row("loss", _loss_line(progress))
        if words := scores_in_words(progress.scores):
            grid.add_row("scores", f"{words}  ·  step {progress.scored_step:,}")
        grid.add_row("speed", _speed_line(progress))
        grid.add_row("data", f"padding {100 * progress.padding:.1f} %  ·  wait {_wait(progress)}")
    else:
        grid.add_row("", "waiting for the first step")
    return grid


def _bar(share: float, text: str) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=1.0, completed=share, width=32), text)
    return row


def _run_line(progress: RunProgress) -> Any:
    share = progress.step / max(progress.total_steps, 1)
    left = f"  ·  left {clock(progress.seconds_left)}" if progress.recent else ""
    return _bar(share, f"{100 * share:3.0f} %  ·  step {progress.step:,} of {progress.total_steps:,}{left}")


def _epoch_line(progress: RunProgress) -> Any:
    done = progress.last["train/epoch"]
    finished = progress.step == progress.total_steps
    share = 1.0 if finished else done % 1.0
    number = int(done) + (0 if finished else 1)
    return _bar(
        share, f"{100 * share:3.0f} %  ·  epoch {number}" + (f" of {progress.epochs}" if progress.epochs else "")
    )


def _loss_line(progress: RunProgress) -> Any:
    from rich.text import Text

    line = Text(f"{progress.last['train/loss']:.4f}  ", style="bold")
    return line.append(sparkline(progress.losses.points, SPARKLINE_WIDTH), style="green")


def _speed_line(progress: RunProgress) -> str:
    line = f"{progress.tokens_per_s:,.0f} valid tokens/s  ·  {progress.step_ms:,.0f} ms a step"
    mfu = progress.last.get("perf/mfu")
    return line if mfu is None else f"{line}  ·  MFU {100 * mfu:.1f} %"


def _wait(progress: RunProgress) -> str:
    share = 100 * progress.wait_ms / max(progress.step_ms, 1e-9)
    return f"{progress.wait_ms:.1f} ms a step ({share:.1f} %)"


def _warning(text: str) -> Any:
    from rich.text import Text

    return Text(f"warning: {text}", style="yellow")


def _nodes(nodes: Mapping[str, NodeHealth], now: float, *, sampled: bool) -> Any:
    """sampled: machines are sampled while a run trains, so that silence afterwards means nothing."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("node")
    rows = {name: _node_cells(health.values) for name, health in sorted(nodes.items())}
    shown = [column for column in COLUMNS if any(cells[column] for cells in rows.values())]
    for column in (*shown, "heard"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *(cells[column] for column in shown), _age(max(now - nodes[name].time, 0.0), sampled))
    return table


def _node_cells(values: Mapping[str, float]) -> dict[str, str]:
    numbers = (
        _percent(values.get("cpu_utilization_percentage")),
        _percent(values.get("system_memory_usage_percentage")),
        _percent(_mean_of(values, "utilization_percentage")),
        _percent(_mean_of(values, "memory_usage_percentage")),
        _rate(values.get("network_receive_megabytes_per_s")),
        _rate(values.get("network_transmit_megabytes_per_s")),
    )
    return dict(zip(COLUMNS, numbers, strict=True))


def _mean_of(values: Mapping[str, float], ending: str) -> float | None:
    """Mean over the GPUs of a node."""
    found = [value for name, value in values.items() if name.startswith("gpu_") and name.endswith(ending)]
    return sum(found) / len(found) if found else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} MB/s"


def _age(seconds: float, sampled: bool) -> Any:
    from rich.text import Text

    return Text(f"{seconds:.0f} s ago", style="bold red" if sampled and seconds > SILENT_S else "")
