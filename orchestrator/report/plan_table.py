"""The description of a plan as tables for a terminal."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.report.plan import count_sets

SHOWN_SETS = 8


def plan_table(description: dict[str, Any]) -> Group:
    """What :func:`orchestrator.report.plan.describe_plan` returned."""
    several = len({bucket["variant"] for bucket in description["buckets"]}) > 1
    table = Table(title=_title(description), title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("bucket", justify="right")
    for name in (["variant"] if several else []) + ["tokens", "samples", "batch", "slices", "padding", "entropy"]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("sets", overflow="fold")
    for number, bucket in enumerate(description["buckets"]):
        table.add_row(str(number), *([str(bucket["variant"])] if several else []), *_cells(bucket))
    return Group(table, Text(_summary(description)))


def _cells(bucket: dict[str, Any]) -> list[str]:
    shortest, longest, names = bucket["shortest"], bucket["longest"], bucket["sets"]
    further = f" and {len(names) - SHOWN_SETS} more" if len(names) > SHOWN_SETS else ""
    return [
        f"{longest}" if shortest == longest else f"{shortest}-{longest}",
        f"{bucket['samples']:,}",
        f"{bucket['batch']:,}",
        f"{bucket['slices']:,}",
        f"{100 * bucket['padding']:.2f} %",
        f"{bucket['entropy_bits']:.2f} bit",
        f"{len(names)}: {' '.join(names[:SHOWN_SETS])}{further}",
    ]


def _title(description: dict[str, Any]) -> str:
    method = f", method {description['method']}" if description["method"] else ""
    return f"strategy {description['strategy']}{method}: padding {100 * description['padding']:.2f} %"


def _load(description: dict[str, Any]) -> str:
    ranks, tokens = description["ranks"], description["rank_tokens"]
    who = "one rank" if ranks == 1 else f"each of {ranks} ranks"
    return f"{who} computes {tokens['mean']:,} tokens a step on average, at most {tokens['largest']:,}"


def _summary(description: dict[str, Any]) -> str:
    sets = count_sets(description["sets"], description["forms"])
    return (
        f"{sets}, {description['samples']:,} samples, {description['tokens']:,} tokens an epoch\n"
        f"{description['steps']:,} steps an epoch, {description['total_steps']:,} in {description['epochs']} epochs, "
        f"{description['tokens_per_step']:,} tokens a step, {100 * description['fillers']:.2f} % fillers\n"
        f"{_load(description)}\n"
        f"{description['partitions']} partitions, plan {description['fingerprint'][:16]}"
    )
