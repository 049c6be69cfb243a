"""The container of a Slurm job's tasks: arguments of srun for pyxis, or a command before Python."""

from collections.abc import Sequence
from pathlib import Path

from channels.errors import UserError
from orchestrator.spec.container import ContainerSection

WHERE = "cluster profile: slurm.container"


def srun_arguments(
    container: ContainerSection | None, code: Path, needed: Sequence[Path], cache: Path | None
) -> list[str]:
    """What srun gets beside our own arguments. code: the folder to start in. needed: folders to mount in any case.

    Raises:
        UserError: the cache lies in no mounted folder, or a name cannot be written as a mount.
    """
    if container is None or container.image is None:
        return []
    if cache is not None and not container.shows(cache):
        mend = f"mount it, or a folder above it that every node has: {cache}"
        raise UserError("storage.cache is not mounted", where=f"{WHERE}.mounts", mend=mend)
    missing = [folder for folder in dict.fromkeys(needed) if not container.shows(folder)]
    for folder in missing:
        if set(",:") & set(str(folder)):
            raise UserError(f"{folder} has a comma or a colon and cannot be mounted", where=WHERE, mend="rename it")
    written = [mount if ":" in mount else f"{mount}:{mount}" for mount in container.mounts]
    mounts = [*written, *(f"{folder}:{folder}" for folder in missing)]
    return [
        f"--container-image={container.image}",
        f"--container-mounts={','.join(mounts)}",
        f"--container-workdir={code}",
        *container.arguments,
    ]


def python_command(container: ContainerSection | None) -> str | None:
    """Shell words that start Python in the container; None for the Python that submits."""
    if container is None:
        return None
    return container.python if container.prefix is None else f"{container.prefix} {container.python}"
