"""``wavetrain models``: networks that others have trained."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Networks that others have trained.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """Networks that others have trained."""


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint: .pth, .pt or .safetensors.")],
    network: Annotated[str, typer.Option("--as", help="hetercsi, wifo, wimamba or lwm.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the export, not there yet.", show_default=False)],
    size: Annotated[str | None, typer.Option(help="Size of the network (default: by its shapes).")] = None,
) -> None:
    """Make an export of a released checkpoint: `wavetrain evaluate DIR --store STORE` scores it."""
    from models.layers.parameters import count_parameters
    from models.released.importing import import_released

    model = import_released(file, network, size, out)
    options = ", ".join(f"{name} {value}" for name, value in model.options.items())
    typer.echo(f"{file}: {model.name} ({options}), {count_parameters(model.network):,} parameters")
    typer.echo(f"written to {out}; score it with: wavetrain evaluate {out} --store STORE")
