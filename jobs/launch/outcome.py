"""What is printed when a run has ended, and its exit code."""

from rich.console import Console

from orchestrator.control.prepared import RunOutcome
from orchestrator.evaluation.table import to_tables


def print_outcome(outcome: RunOutcome, profile: str = "") -> int:
    """Print how a run ended and what to do next; its exit code. profile: options that choose it, of what is shown."""
    console = Console()
    name = outcome.directory.path.name
    if outcome.scores:
        console.print(*to_tables(outcome.scores, f"zero-shot results of {name}"), sep="\n")
    if outcome.cause:
        console.print(f"{outcome.status}: {outcome.cause}", markup=False, highlight=False, soft_wrap=True)
    if not outcome.is_kept:
        mend = f"free some space, then wavetrain sync {name}{profile}"
        text = f"{outcome.status}, but {outcome.directory.state} does not say so; {mend}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if outcome.status == "FINISHED":
        console.print(f"tables, weights and events: {outcome.directory.path}", highlight=False, soft_wrap=True)
        look = f"look at it in MLflow:        wavetrain ui{profile}"
        bring = f"bring it to MLflow:          wavetrain sync {name}{profile}"
        console.print(bring if outcome.is_offline else look, highlight=False)
    if outcome.status == "KILLED":
        return 128 + (outcome.signal or 2)
    return 0 if outcome.status == "FINISHED" and outcome.is_kept else 1
