"""What a rank printed in an attempt of a run, wherever it ran."""

from channels.errors import UserError
from orchestrator.run.folder import RunDirectory
from orchestrator.run.rank_log import log_file, logged_ranks, numbers


def read_rank(directory: RunDirectory, rank: int, attempt: int | None) -> dict[str, str]:
    """The text so far, by file. attempt: from 1; the newest where None.

    Raises:
        UserError: there is no such attempt, or no such rank in it.
    """
    name, attempts = directory.path.name, numbers(directory.attempts)
    if not attempts or (attempt is not None and attempt not in attempts):
        mend = f"there are {_span(attempts)}" if attempts else "no rank has begun to train yet"
        raise UserError(f"run {name!r} has no attempt {attempt or ''}".rstrip(), where="logs", mend=mend)
    chosen = attempts[-1] if attempt is None else attempt
    path = log_file(directory.attempts, chosen, rank)
    if not path.exists():
        known = _span(logged_ranks(directory.attempts, chosen))
        raise UserError(f"attempt {chosen} of run {name!r} has no rank {rank}", where="logs", mend=f"there are {known}")
    return {str(path): path.read_text(errors="replace")}


def _span(found: list[int]) -> str:
    return " to ".join(map(str, sorted({found[0], found[-1]}))) if found else "none"
