"""Rows of the CSV files beside a report: the runs, their logged steps and their zero-shot errors."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.record import RunRecord

STEP_COLUMNS = ("step", "samples", "wall_s", "loss", "lr", "padding", "tokens_per_s")


def run_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One line a run; what it has no figure for is None."""
    return [_run_row(record) for record in records]


def _run_row(record: RunRecord) -> dict[str, Any]:
    last = record.attempts[-1] if record.attempts else None
    return {
        "run": record.name,
        "status": record.status,
        "model": " ".join([record.job.model.name, *map(str, record.job.model.options.values())]),
        "plan": record.plan_name,
        "workers": last.workers if last else None,
        "device": last.device if last else None,
        "steps": record.done,
        "total_steps": record.total_steps,
        "samples_per_epoch": record.plan["samples"],
        "loss": float(record.steps.loss[-1]) if record.done else None,
        "padding_planned": record.plan["padding"],
        "padding_measured": record.padding,
        "coverage": record.epochs[-1].get("data/coverage") if record.epochs else None,
        "tokens_per_s": record.throughput,
        "minutes_per_epoch": record.minutes_per_epoch,
        "attempts": len(record.attempts),
        "checkpoints": len(record.checkpoints),
        "goodput": record.ledger.share,
        **{f"{part}_s": seconds for part, seconds in record.ledger.seconds.items()},
        "zeroshot_nmse_db": record.zeroshot,
        "fullshot_nmse_db": record.fullshot,
        "validation_loss": float(record.validation.loss[-1]) if record.validation is not None else None,
        "validation_nmse_db": float(record.validation.nmse_db[-1]) if record.validation is not None else None,
    }


def step_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One line a logged step."""
    return [
        {"run": record.name, **{name: float(value) for name, value in zip(STEP_COLUMNS, values, strict=True)}}
        for record in records
        for values in zip(*(getattr(record.steps, name) for name in STEP_COLUMNS), strict=True)
    ]


def score_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One line an error, of runs and predictions without training, against both targets."""
    return [
        {
            "run": record.name, "task": score.task, "set": score.set_name, "predictor": score.predictor,
            "target": score.target, "samples": score.samples, "nmse": score.nmse, "nmse_db": score.decibels,
            "sgcs": score.sgcs, "se_share": score.se_share,
        }
        for record in records
        for score in record.scores
    ]  # fmt: skip


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a header; floats with six digits, None left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()
