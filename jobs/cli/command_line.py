"""The commands of ``wavetrain``: the module of one is imported when it is used, so ``--help`` answers at once."""

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from channels.errors import UserError
from jobs.launch.collector import rare_collection

HELP = "Pre-train wireless-channel foundation models: plan, train, evaluate, compare."
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "channels": ("channels:app", "Make, import, show and verify channel stores."),
        "models": ("models:app", "Networks that others have trained."),
        "plan": (
            "planning.command:plan",
            "Show buckets, padding and steps: of a job spec, or of a preset without any data.",
        ),
        "train": ("train:train", "Train a job to its end: plan, workers, MLflow, zero-shot table. Again: resume."),
        "submit": ("submit:submit", "Submit a job to the profile's Slurm or Ray cluster. Again: resume."),
        "doctor": ("doctor:doctor", "Check whether this machine is ready to train; code 1 if a check fails."),
        "status": ("runs:status", "Show state, step, loss, speed, time left, nodes and reason of one run or of all."),
        "logs": ("runs:logs", "Show what a submitted run printed on its nodes, or what a rank of any run printed."),
        "cancel": ("runs:cancel", "End a run after a checkpoint: the same command that started it resumes it."),
        "sync": ("sync:sync", "Bring to MLflow what it missed of a run that has ended."),
        "evaluate": (
            "evaluate:evaluate",
            "Score final weights of runs and exports on held-out sets.",
        ),
        "downstream": (
            "downstream.command:downstream",
            "Compare what embeddings are worth: heads on frozen encoders, by share of labels. Again: go on.",
        ),
        "report": ("report:report", "Write a report of finished, failed and running runs, side by side."),
        "study": ("study:study", "Run an ablation of the paper at a scale and write its table. Again: go on."),
        "ui": ("ui:ui", "Serve MLflow's web pages over the runs until interrupted."),
    }
)
"""Name to ``module:attribute`` in jobs.cli, a function or a Typer application, and its line in ``wavetrain --help``."""


def load_command(name: str) -> Any:
    """The command with its arguments and options."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"jobs.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    application = typer.Typer(add_completion=False)
    application.command(name)(found)
    return typer.main.get_command(application)


class CommandLine(TyperGroup):
    """Lists all commands by name and line of help; loads the one that is used."""

    def __init__(self) -> None:
        listed: dict[str, Any] = {
            name: TyperCommand(name, callback=None, help=line) for name, (_, line) in COMMANDS.items()
        }
        super().__init__(name="wavetrain", help=HELP, no_args_is_help=True, commands=listed)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and arguments of the command that is used."""
        _refuse_empty(args)
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


def _refuse_empty(arguments: list[str]) -> None:
    """Raises UserError for an empty argument, as a shell makes it of a variable that is not set.

    As a path it would be the working directory.
    """
    before = ""
    for argument in arguments:
        option = re.fullmatch(r"(--[a-z-]+)=\s*", argument)
        if option or not argument.strip():
            where = option[1] if option else before
            raise UserError("an argument is empty", where=where, mend="give a value; . is the working directory")
        before = argument


def run() -> None:
    """The command line of this process; bad input is one line on stderr and exit code 2."""
    with rare_collection():
        try:
            CommandLine()()
        except UserError as error:
            sys.stderr.write(f"wavetrain: {error}\n")
            sys.exit(2)
