"""The section of a profile that says in which container the nodes of a Slurm job run."""

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from orchestrator.spec.section import Section

ARGUMENT = re.compile(r"^--(no-)?container-[a-z-]+(=\S.*)?$")
OURS = frozenset({"--container-image", "--container-mounts", "--container-workdir"})


class ContainerSection(Section):
    """An image of pyxis (a plugin of Slurm, over enroot), or a command that runs another one in a container."""

    image: str | None = Field(default=None, min_length=1)
    """``--container-image`` of srun."""
    mounts: tuple[str, ...] = ()
    """``FOLDER``, ``SOURCE:TARGET`` or ``SOURCE:TARGET:FLAGS`` each; runs and store are added where missing."""
    arguments: tuple[str, ...] = ()
    """Further arguments of srun that pyxis knows, e.g. ``--no-container-mount-home``."""
    prefix: str | None = Field(default=None, min_length=1)
    """Shell words before Python instead of an image, e.g. ``apptainer exec --nv --bind /shared /shared/train.sif``."""
    python: str = "python3"
    """Python inside the container."""

    @field_validator("mounts")
    @classmethod
    def _mounts(cls, mounts: tuple[str, ...]) -> tuple[str, ...]:
        for mount in mounts:
            if "," in mount or not 1 <= len(mount.split(":")) <= 3 or not all(mount.split(":")):
                raise ValueError(f"{mount!r} is not of the form SOURCE:TARGET")
        return mounts

    @field_validator("arguments")
    @classmethod
    def _arguments(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if not ARGUMENT.match(argument):
                raise ValueError(f"{argument!r} is not of the form --container-name=value or --no-container-name")
            if argument.partition("=")[0] in OURS:
                raise ValueError(f"{argument.partition('=')[0]} is set by Wavetrain; use image and mounts")
        return arguments

    @model_validator(mode="after")
    def _one_way(self) -> "ContainerSection":
        if (self.image is None) == (self.prefix is None):
            raise ValueError("a container has either an image or a prefix")
        if self.prefix is not None and (self.mounts or self.arguments):
            raise ValueError("mounts and arguments are for an image; write them into the prefix")
        return self

    def shows(self, folder: Path) -> bool:
        """Whether a folder is mounted under its own name."""
        parts = [mount.split(":") for mount in self.mounts]
        own = [Path(part[0]) for part in parts if len(part) == 1 or part[0] == part[1]]
        return any(folder.is_relative_to(source) for source in own)
