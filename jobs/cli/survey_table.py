"""What an import found, for a reader: a table of the sets, where their parameters come from, what is left out."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from channels.importers.found import ASSUMED, FoundSet, Parameter, Survey

UNITS = {"fc_ghz": " GHz", "subcarrier_spacing_khz": " kHz", "slot_ms": " ms", "speed_kmh": " km/h"}
_SHOWN = {
    "fc_ghz": "carrier",
    "subcarrier_spacing_khz": "spacing",
    "slot_ms": "slot",
    "rows": "rows",
    "cols": "columns",
    "scenario": "scenario",
    "los": "line of sight",
    "speed_kmh": "speed",
    "slots": "slots",
    "subcarriers": "subcarriers",
}


def print_survey(found: Survey, console: Console) -> None:
    """The sets, their parameters by origin, notes, and everything that is not imported."""
    table = Table(title=f"found in {found.source}", title_justify="left", caption="T slots, K subcarriers, A antennas")
    for name in ("set", "found as", "role", "format", "T x K x A"):
        table.add_column(name, overflow="fold")
    table.add_column("samples", justify="right")
    for one in found.sets:
        table.add_row(
            one.name,
            one.published,
            one.role,
            f"{one.reader}: {one.layout}",
            "x".join(str(size) for size in one.shape),
            " + ".join(f"{count:,} {split}" for split, count in one.counts.items() if count),
        )
    console.print(table)
    for line in parameter_lines(found.sets):
        console.print(line, soft_wrap=True, highlight=False)
    for one in found.sets:
        for note in one.notes:
            console.print(f"{one.name}: {note}", soft_wrap=True, highlight=False)
    for left in found.left_out:
        console.print(f"not imported: {left.what}: {left.why}", soft_wrap=True, highlight=False)
    total = sum(sum(one.counts.values()) for one in found.sets)
    sets = "1 set" if len(found.sets) == 1 else f"{len(found.sets)} sets"
    rest = f"{len(found.left_out)} named above are not imported" if found.left_out else "nothing else is there"
    console.print(f"{sets}, {total:,} samples; {rest}", highlight=False)


def parameter_lines(sets: tuple[FoundSet, ...]) -> list[str]:
    """A line a set and origin: which parameters come from there, and their values."""
    lines = []
    for one in sets:
        sources = list(dict.fromkeys(parameter.source for parameter in one.parameters.values()))
        for source in sorted(sources, key=lambda source: source.startswith(ASSUMED)):
            held = {key: value for key, value in one.parameters.items() if value.source == source and key in _SHOWN}
            hint = "; --spec FILE says what is true" if source == ASSUMED else ""
            lines.append(f"{one.name}, {source}: {_words(held)}{hint}")
    return lines


def _words(parameters: Mapping[str, Parameter]) -> str:
    return ", ".join(f"{_SHOWN[key]} {_value(key, parameters[key].value)}" for key in _SHOWN if key in parameters)


def _value(key: str, value: Any) -> str:
    if key == "los":
        return {True: "yes", False: "no", None: "unknown"}.get(value, str(value))
    if key == "speed_kmh":
        return f"{value[0]:g} to {value[1]:g} km/h"
    number = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{number}{UNITS.get(key, '')}"
