"""What a person sees while a run trains: one live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

PLAIN_INTERVAL_S = 5.0
RATE_WINDOW = 50


@dataclass
class LiveView:
    """Turns events into a line with step, loss, tokens/s, padding and time left."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    total_steps: int = 0
    _last: Mapping[str, Any] = field(default_factory=dict)
    _recent_ms: list[float] = field(default_factory=list)
    _shown: float = 0.0
    _shown_step: int = -1
    _width: int = 0

    def update(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Take in new events and redraw if it is time."""
        for event in events:
            match event["kind"]:
                case "attempt":
                    self.total_steps = event["total_steps"]
                    verb = "starts" if event["step"] == 0 else f"resumes after step {event['step']}"
                    self.say(f"training {verb}: {event['world']} ranks on {event['device']}, {self.total_steps} steps")
                case "warning":
                    self.say(f"warning: {event['text']}")
                case "note":
                    self.say(event["text"])
                case "step":
                    self._last = event
                    self._recent_ms = [*self._recent_ms[1 - RATE_WINDOW :], event["metrics"]["perf/step_ms"]]
        self._draw()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._erase()
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Show the last step and leave the line."""
        if self._last and self._last["step"] != self._shown_step:
            self._erase()
            print(self._line(), file=self.stream, flush=True)
            self._last = {}

    def _draw(self) -> None:
        if not self._last:
            return
        now = time.monotonic()
        if self.stream.isatty():
            line = self._line()
            print("\r" + line.ljust(self._width), end="", file=self.stream, flush=True)
            self._width = len(line)
        elif now - self._shown >= PLAIN_INTERVAL_S and self._last["step"] != self._shown_step:
            print(self._line(), file=self.stream, flush=True)
            self._shown, self._shown_step = now, self._last["step"]

    def _erase(self) -> None:
        if self._width and self.stream.isatty():
            print("\r" + " " * self._width + "\r", end="", file=self.stream)
        self._width = 0

    def _line(self) -> str:
        metrics = self._last["metrics"]
        step = self._last["step"]
        mean_ms = sum(self._recent_ms) / len(self._recent_ms)
        left = (self.total_steps - step) * mean_ms / 1e3
        return (
            f"step {step}/{self.total_steps}  epoch {metrics['train/epoch']:.2f}  loss {metrics['train/loss']:.4f}  "
            f"{metrics['perf/tokens_per_s']:,.0f} tokens/s  padding {100 * metrics['data/padding_ratio']:.1f} %  "
            f"wait {metrics['perf/data_wait_ms']:.1f} ms  left {clock(left)}"
        )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
