"""The fault matrix in one command: prints its table and appends it to results.jsonl.

python benchmarks/faults.py [--cases kill-worker,sigterm]

Ends with 1 if anything is not as it must be.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from parts.record import record

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.e2e.matrix.fault_cases import CASES, NEED_ROOT
from tests.e2e.matrix.faults import Bench, Failed, Finding, start_bench, table

EVERY_S = 1800.0
LEAST = 0.97
"""Of the time, that a failure so often must leave."""


def main() -> int:
    """Run the cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    chosen = parser.parse_args().cases.split(",")
    if os.geteuid() != 0 and (left_out := [case for case in chosen if case in NEED_ROOT]):
        print(f"left out, since only root may mount a small disk: {', '.join(left_out)}")
        chosen = [case for case in chosen if case not in left_out]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench, undisturbed = start_bench(Path(folder))
        findings = [undisturbed, *(measure(bench, case) for case in chosen)]
    print(table(findings))
    left = remaining(findings)
    print("\n".join(f"{case}: one every {EVERY_S / 60:.0f} min leaves {share:.1%}" for case, share in left.items()))
    problems = [f"{found.case}: {problem}" for found in findings for problem in found.problems()]
    problems += [f"{case}: {share:.1%} are left, not {LEAST:.0%}" for case, share in left.items() if share < LEAST]
    print("\n".join(problems or ["everything is as it must be"]))
    print(f"{time.monotonic() - started:.0f} s in all")
    record("faults", {"cases": chosen}, [finding.row() for finding in findings])
    return int(bool(problems))


def remaining(findings: Sequence[Finding | Failed]) -> dict[str, float]:
    """By case: what a failure every half an hour leaves of the time, where the ledger has a recovery."""
    return {
        found.case: 1 - (found.ledger["recovery"] + found.ledger.get("repeated", 0.0)) / EVERY_S
        for found in findings
        if isinstance(found, Finding) and "recovery" in found.ledger
    }


def measure(bench: Bench, case: str) -> Finding | Failed:
    """One case; one that fails costs its line, not the table."""
    started = time.monotonic()
    try:
        return CASES[case](bench)
    except Exception as error:
        return Failed(case, " ".join(f"{type(error).__name__}: {error}".split())[:500])
    finally:
        print(f"{case}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
