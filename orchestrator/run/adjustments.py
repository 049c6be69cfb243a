"""What later attempts of a run do differently because of how earlier ones failed: one small file of the run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from channels.errors import UserError, reason_of
from channels.files import parse_json, write_json


@dataclass(frozen=True, slots=True)
class Adjustments:
    """What is different.

    skipped_steps: optimizer steps (from 0) that are passed over. micro_batch: bucket -> most samples of a forward pass.
    """

    skipped_steps: tuple[int, ...] = ()
    micro_batch: Mapping[int, int] = field(default_factory=dict)


def read_adjustments(path: Path) -> Adjustments:
    """Those of a run; none where there is no file.

    Raises:
        UserError: the file is broken, or an earlier version cut the micro-batch of all buckets.
    """
    if not path.exists():
        return Adjustments()
    try:
        entries = parse_json(path.read_bytes())
        skipped_steps, sizes = tuple(map(int, entries["skipped_steps"])), entries["micro_batch"]
        # Where no micro-batch was cut, an earlier version wrote null.
        most = sizes if isinstance(sizes, int) else {int(bucket): int(most) for bucket, most in (sizes or {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"broken ({reason_of(error)})", where=str(path), mend="remove it") from None
    if isinstance(most, int):
        what = f"an earlier version cut the micro-batch of all buckets to {most}, this one cuts each by itself"
        mend = f'write, for each bucket to be cut, its number and its micro-batch: "micro_batch": {{"0": {most}}}'
        raise UserError(what, where=str(path), mend=mend)
    return Adjustments(skipped_steps, most)


def write_adjustments(path: Path, adjustments: Adjustments) -> None:
    """Make them those of the run."""
    write_json(path, asdict(adjustments))


def micro_batches(job_sizes: int | tuple[int, ...], most: Mapping[int, int], buckets: int) -> tuple[int, ...]:
    """Samples of a forward pass in each bucket: what the job says, cut to ``most`` where memory did not suffice."""
    sizes = (job_sizes,) * buckets if isinstance(job_sizes, int) else job_sizes
    return tuple(min(size, most.get(bucket, size)) for bucket, size in enumerate(sizes))
