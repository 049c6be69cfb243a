"""The entry point of ``wavetrain``; it imports little, so that a stop request is heeded from the first moment."""

from jobs.launch.early_stop import stopped_by_sigterm


def main() -> None:
    """Run the command line."""
    with stopped_by_sigterm():
        from jobs.cli.command_line import run

        run()


if __name__ == "__main__":
    main()
