"""Job specs small enough for a test."""

from pathlib import Path
from typing import Any

from orchestrator.spec.job import JobSpec


def small_job(
    store: Path, name: str = "small", *, replace_model: dict[str, Any] | None = None, **sections: Any
) -> JobSpec:
    """A tiny HeterCSI job (or another model) over the small store; keyword arguments change fields of its sections."""
    base: dict[str, Any] = {
        "name": name,
        "seed": 3,
        "data": {"store": str(store)},
        "model": replace_model or {"name": "hetercsi", "size": "tiny", "position": "grid"},
        "batching": {"method": "optimal", "buckets": 2, "global_batch": 16, "partitions": 4, "micro_batch": 16},
        "train": {"epochs": 2, "lr": 1e-3, "warmup_epochs": 0.5},
        "scale": {"workers": 2},
        "checkpoint": {"every_steps": 5},
    }
    for section, fields in sections.items():
        base[section] = fields if not isinstance(fields, dict) else {**base.get(section, {}), **fields}
    return JobSpec.model_validate(base)
