"""What every launcher starts: ``python -m jobs.run SPEC [--set a.b=c] [--cluster NAME]``."""

import sys

from jobs.launch.early_stop import stopped_by_sigterm


def main() -> None:
    """The same as ``wavetrain train``."""
    with stopped_by_sigterm():
        import typer

        from channels.errors import UserError
        from jobs.cli.train import train
        from jobs.launch.collector import rare_collection

        with rare_collection():
            try:
                typer.run(train)
            except UserError as error:
                sys.stderr.write(f"wavetrain: {error}\n")
                sys.exit(2)


if __name__ == "__main__":
    main()
