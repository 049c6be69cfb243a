"""``wavetrain study``: an ablation of the HeterCSI paper as a sweep, and its table beside the published one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_args

import typer

from channels.errors import UserError
from channels.manifest import ROLES
from jobs.cli.downstream.study import study_downstream
from jobs.cli.options import ClusterFileOption, ClusterOption
from jobs.cli.submit import submit_sweep
from jobs.launch.sweep import Sweep
from jobs.studies.children import ChildFailedError, waiting_children
from jobs.studies.downstream.spec import NAME as FIG3_WIMAMBA
from jobs.studies.spec import Child, Scale, Study, StudyName, known_scales, make_study, make_study_store
from orchestrator.spec.cluster import Profile, load_profile
from orchestrator.spec.yaml_files import validate

IMPORTABLE = ("table2", "fig3", "scales", "recipe")


def study(
    what: Annotated[
        str,
        typer.Argument(help="table2, table3, fig3, fig4, fig1c, scales, recipe or fig3-wimamba.", show_default=False),
    ],
    scale: Annotated[str, typer.Option(help="small (minutes on two cores), medium or published.")] = "small",
    samples: Annotated[int | None, typer.Option(help="Samples of a set, in place of the scale's.")] = None,
    model: Annotated[str | None, typer.Option(help="tiny, base or published, in place of the scale's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a (pre-training) run, in place of the scale's.")] = None,
    sets: Annotated[str | None, typer.Option(help="table3, fig3: numbers of sets that are trained, e.g. 8,40.")] = None,
    targets: Annotated[str | None, typer.Option(help="table2, fig3, scales, recipe: held-out sets, e.g. D1.")] = None,
    target_epochs: Annotated[int | None, typer.Option(help="table2: epochs of a run on one target alone.")] = None,
    quadriga: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="table2, fig3, scales: imported channels in place of made ones; recipe: held-out ones."
        ),
    ] = None,
    changes: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="recipe: changes beside the base (default: the scale's).")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="recipe, fig4: seeds of the runs, e.g. 42,43,44.")] = None,
    gpt2: Annotated[
        Path | None, typer.Option(metavar="DIR", help="table2: weights of GPT-2 small for LLM4CP (default: random).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep (default: e.g. table3-small).")] = None,
    stores: Annotated[Path, typer.Option(help="Folder for the channels that are made.")] = Path("data"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of channels and runs.")] = 42,
    source: Annotated[
        list[Path] | None, typer.Option(help="fig3-wimamba: labelled channels to import (repeatable).")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Runs at a time, on a Slurm or Ray cluster.")] = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Run an ablation of the paper at a scale and write its table; again: goes on with what is not finished."""
    if what == "recipe":
        fixed = {"--model": model, "--epochs": epochs, "--sets": sets, "--target-epochs": target_epochs, "--gpt2": gpt2}
        _refuse("the recipe is that of a shipped job, one epoch a run", fixed)
    else:
        _refuse(f"{what} has no changes of a recipe", {"--changes": changes})
        if what != "fig4":
            _refuse(f"{what} has one seed, that of --seed", {"--seeds": seeds})
    if what == FIG3_WIMAMBA:
        study_downstream(
            name or f"{what}-{scale}", scale, samples, epochs, source or [], stores, seed, cluster, cluster_file,
            dry_run=dry_run,
        )  # fmt: skip
        return
    kind = _kind(what)
    chosen = _scale(scale, {
        "samples": samples, "model": model, "epochs": epochs, "gradient_epochs": epochs,
        "table3_sets": _numbers(sets), "fig3_sets": _numbers(sets), "zeroshot_sets": _names(targets),
        "fig4_seeds": _seeds(seeds),
    }, {
        "rivals": {"targets": _names(targets), "epochs": epochs, "target_epochs": target_epochs},
        "extrapolation": {"targets": _names(targets), "epochs": epochs},
        "recipe": {
            "targets": _names(targets), "samples": samples, "changes": _names(changes), "seeds": _seeds(seeds),
        },
    })  # fmt: skip
    if quadriga is not None and kind not in IMPORTABLE:
        mend = f"drop it; it is for {', '.join(IMPORTABLE)}"
        raise UserError(f"{kind} is made from made channels", where="--quadriga", mend=mend)
    # Looking into files of channels needs their readers.
    from jobs.studies.imported import look_at

    roles = ("zeroshot",) if kind == "recipe" else ROLES
    imported = None if quadriga is None else look_at(quadriga, stores, roles)
    # The runs of the recipe are the same, whatever they are scored on.
    own_name = name or f"{kind}-{scale}" + ("-imported" if imported and kind != "recipe" else "")
    planned = make_study(kind, own_name, chosen, stores, seed, imported=imported, gpt2=gpt2)
    profile = load_profile(cluster_file, cluster)
    waiting = waiting_children(planned.children, profile.storage.runs, imported)
    typer.echo(_plan_text(planned, waiting))
    if dry_run:
        return
    if profile.launcher != "local" and waiting:
        _hand_over(planned, profile.with_absolute_folders(), parallel)
        return
    options = [f"--{key}={value}" for key, value in (("cluster", cluster), ("cluster-file", cluster_file)) if value]
    # The tables need torch and matplotlib.
    from jobs.studies.run import run_study

    try:
        files = run_study(planned, waiting, profile, options, _say)
    except ChildFailedError as error:
        typer.echo(error, err=True)
        raise typer.Exit(error.code) from None
    typer.echo(next(path for path in files if path.suffix == ".md").read_text())
    typer.echo(f"written to {files[0].parent}: {', '.join(path.name for path in files)}")


def _hand_over(planned: Study, profile: Profile, parallel: int) -> None:
    """Make the channels and submit the runs that wait as one sweep; the same command later writes the table."""
    # Planning needs torch.
    from jobs.studies.plans import check_plans

    make_study_store(planned, lambda name, done, total: _say(f"channels of {name}: {total}") if done == total else None)
    check_plans(waiting_children(planned.children, profile.storage.runs, planned.imported))
    submit_sweep(Sweep(planned.name, ("study",), tuple(child.job for child in planned.children)), profile, parallel)
    typer.echo("the same command writes the table once all runs are finished")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _kind(what: str) -> StudyName:
    known: dict[str, StudyName] = {kind: kind for kind in get_args(StudyName)}
    if what not in known:
        raise UserError(f"no study {what!r}", where="study", mend=f"there are {', '.join((*known, FIG3_WIMAMBA))}")
    return known[what]


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    allowed = range(1, 41)
    if not all(part.strip().isdecimal() and int(part) in allowed for part in parts):
        raise UserError(f"{text!r} are no numbers of sets", where="--sets", mend="e.g. --sets 8,40")
    return tuple(int(part) for part in parts)


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    # int() refuses more than 4,300 digits.
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise UserError(f"{text[:40]!r} are no seeds", where="--seeds", mend="e.g. --seeds 42,43,44")
    return tuple(int(part) for part in parts)


def _refuse(why: str, options: Mapping[str, object]) -> None:
    """Raises UserError for the first option that was given."""
    for option, value in options.items():
        if value is not None:
            raise UserError(why, where=option, mend="drop it")


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))


def _scale(name: str, changes: dict[str, object], parts: dict[str, dict[str, object]]) -> Scale:
    """A shipped scale with what was given. parts: changes of its sections, by name."""
    scales = known_scales()
    if name not in scales:
        raise UserError(f"no scale {name!r}", where="--scale", mend=f"there are {', '.join(scales)}")
    fields = scales[name].model_dump(mode="json")
    sections = {part: {**fields[part], **_given(given)} for part, given in parts.items()}
    return validate(Scale, {**fields, **_given(changes), **sections}, f"--scale {name}")


def _given(changes: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in changes.items() if value is not None}


def _plan_text(planned: Study, waiting: list[Child]) -> str:
    lines = [
        f"study {planned.name}: {planned.description}",
        f"channels: {len(planned.preset.pretrain)} + {len(planned.preset.zeroshot)} sets in {planned.store}",
    ]
    if planned.kind == "fig1c":
        lines.append(f"{planned.scale.gradient_epochs} epochs in this process, no further runs")
    else:
        lines += planned.left_out
        lines.append(f"{len(planned.children)} runs, {len(waiting)} of them to be made:")
        lines += [f"  {child.job.name}" for child in waiting]
    return "\n".join(lines)
