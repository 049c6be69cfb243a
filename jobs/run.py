"""What every launcher starts: ``python -m jobs.run SPEC [--set a.b=c] [--cluster NAME]``."""

import sys

import typer

from channels.errors import UserError
from jobs.cli.train import train
from jobs.launch.collector import rare_collection


def main() -> None:
    """The same as ``wavetrain train``."""
    with rare_collection():
        try:
            typer.run(train)
        except UserError as error:
            sys.stderr.write(f"wavetrain: {error}\n")
            sys.exit(2)


if __name__ == "__main__":
    main()
