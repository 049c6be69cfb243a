"""The command ``wavetrain``."""

import sys

import typer

from channels.errors import UserError
from jobs import (
    channels_commands,
    doctor_command,
    evaluate_command,
    plan_command,
    report_command,
    runs_commands,
    study_command,
    submit_command,
    sync_command,
    train_command,
    ui_command,
)

app = typer.Typer(
    name="wavetrain",
    help="Pre-train wireless-channel foundation models: plan, train, evaluate, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(channels_commands.app, name="channels", help="Make, import, show and verify channel stores.")
app.command("plan")(plan_command.plan)
app.command("train")(train_command.train)
app.command("submit")(submit_command.submit)
app.command("doctor")(doctor_command.doctor)
app.command("status")(runs_commands.status)
app.command("logs")(runs_commands.logs)
app.command("cancel")(runs_commands.cancel)
app.command("sync")(sync_command.sync)
app.command("evaluate")(evaluate_command.evaluate)
app.command("report")(report_command.report)
app.command("study")(study_command.study)
app.command("ui")(ui_command.ui)


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"wavetrain: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
