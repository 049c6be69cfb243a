"""The fault matrix in one command: prints its table and appends it to results.jsonl.

python benchmarks/faults.py [--cases kill-worker,sigterm]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from record import record

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.e2e.fault_cases import CASES
from tests.e2e.faults import start_bench, table


def main() -> None:
    """Run the cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    chosen = parser.parse_args().cases.split(",")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench, undisturbed = start_bench(Path(folder))
        findings = [undisturbed, *(CASES[case](bench) for case in chosen)]
    print(table(findings))
    record("faults", {"cases": chosen}, [finding.row() for finding in findings])


if __name__ == "__main__":
    main()
