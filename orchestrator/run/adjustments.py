"""What later attempts of a run do differently because of how earlier ones failed: one small file of the run."""

from dataclasses import asdict, dataclass
from pathlib import Path

from channels.errors import UserError
from channels.files import parse_json, write_json


@dataclass(frozen=True, slots=True)
class Adjustments:
    """skipped_steps: optimizer steps (from 0) that are passed over. micro_batch: most samples of one forward pass."""

    skipped_steps: tuple[int, ...] = ()
    micro_batch: int | None = None


def read_adjustments(path: Path) -> Adjustments:
    """Those of a run; none where there is no file.

    Raises:
        UserError: the file is broken.
    """
    if not path.exists():
        return Adjustments()
    try:
        entries = parse_json(path.read_bytes())
        micro_batch = None if entries["micro_batch"] is None else int(entries["micro_batch"])
        return Adjustments(tuple(map(int, entries["skipped_steps"])), micro_batch)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"broken ({error!r})", where=str(path), mend="remove it") from None


def write_adjustments(path: Path, adjustments: Adjustments) -> None:
    """Make them those of the run."""
    write_json(path, asdict(adjustments))


def smaller(micro_batch: int | tuple[int, ...], most: int | None) -> int | tuple[int, ...]:
    """A micro-batch, or one a bucket, cut to ``most`` samples."""
    if most is None:
        return micro_batch
    return min(micro_batch, most) if isinstance(micro_batch, int) else tuple(min(size, most) for size in micro_batch)
