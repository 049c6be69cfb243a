"""What a person sees while a run trains: a panel on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from orchestrator.run.progress import RunProgress, clock
from orchestrator.view.console import plain_console
from orchestrator.view.panel import make_panel


@dataclass
class LiveView:
    """Shows the events of a run as they come; call ``update`` a few times a second, with or without events."""

    title: str = ""
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    state: str = ""
    """What the launcher says of the run, shown beside the title."""
    every_s: float = 5.0
    """Seconds between two plain lines."""
    progress: RunProgress = field(default_factory=RunProgress)
    _live: Any = None
    _shown: float = float("-inf")
    _shown_step: int = 0

    def update(self, events: Sequence[Mapping[str, Any]], *, quiet: bool = False) -> None:
        """Take in new events and redraw if it is time. quiet: they are old, nothing is said of them singly."""
        for event in events:
            self.progress.add(event)
            if not quiet:
                self._say_event(event)
        if any(event["kind"] in ("attempt", "step") for event in events) or self._live:
            self._draw()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live:
            self._live.console.print(text, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._live:
            self._live.update(self._panel(), refresh=True)
            self._live.stop()
            self._live = None
        elif self.progress.last and self.progress.step != self._shown_step:
            self._print_line()
        self._shown_step = self.progress.step

    def _say_event(self, event: Mapping[str, Any]) -> None:
        match event["kind"]:
            case "attempt":
                verb = "starts" if event["step"] == 0 else f"resumes after step {event['step']}"
                self.say(f"training {verb}: {event['world']} ranks on {event['device']}, {event['total_steps']} steps")
            case "warning":
                self.say(f"warning: {event['text']}")
            case "note":
                self.say(event["text"])

    def _draw(self) -> None:
        if self._on_terminal():
            self._live = self._live or self._start()
            self._live.update(self._panel(), refresh=True)
        elif time.monotonic() - self._shown >= self.every_s and self.progress.step != self._shown_step:
            self._print_line()

    def _on_terminal(self) -> bool:
        return self.stream.isatty() and not plain_console(file=self.stream).is_dumb_terminal

    def _start(self) -> Any:
        from rich.live import Live

        live = Live(console=plain_console(file=self.stream), auto_refresh=False, vertical_overflow="crop")
        live.start()
        return live

    def _panel(self) -> Any:
        return make_panel(self.progress, self.title, time.time(), self.state)

    def _print_line(self) -> None:
        if self.progress.last:
            print(self._line(), file=self.stream, flush=True)
            self._shown, self._shown_step = time.monotonic(), self.progress.step

    def _line(self) -> str:
        progress, metrics = self.progress, self.progress.last
        mfu = f"  MFU {100 * metrics['perf/mfu']:.1f} %" if "perf/mfu" in metrics else ""
        return (
            f"step {progress.step}/{progress.total_steps}  epoch {metrics['train/epoch']:.2f}  "
            f"loss {metrics['train/loss']:.4f}  {progress.tokens_per_s:,.0f} tokens/s  "
            f"padding {100 * progress.padding:.1f} %  wait {progress.wait_ms:.1f} ms{mfu}  "
            f"left {clock(progress.seconds_left)}"
        )
