"""The command ``wavetrain``."""

import sys

import typer

from channels.errors import UserError
from jobs.cli import channels, doctor, evaluate, models, plan, report, runs, study, submit, sync, train, ui

app = typer.Typer(
    name="wavetrain",
    help="Pre-train wireless-channel foundation models: plan, train, evaluate, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(channels.app, name="channels", help="Make, import, show and verify channel stores.")
app.add_typer(models.app, name="models", help="Networks that others have trained.")
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("submit")(submit.submit)
app.command("doctor")(doctor.doctor)
app.command("status")(runs.status)
app.command("logs")(runs.logs)
app.command("cancel")(runs.cancel)
app.command("sync")(sync.sync)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("study")(study.study)
app.command("ui")(ui.ui)


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"wavetrain: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
