"""What a launcher leaves in the folder of a run: resolved spec and profile, code, and how it was submitted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.files import write_json
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from orchestrator.spec.kept import read_kept_job, read_kept_profile


@dataclass(frozen=True, slots=True)
class LaunchFolder:
    """``launch/`` of a run."""

    run: RunDirectory

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.run.launch

    @property
    def submitted(self) -> Path:
        """Where submitit keeps scripts, pickles and the output of every node."""
        return self.path / "slurm"

    @property
    def submission(self) -> Path:
        """Launcher, job id, code and time of the last submission, and since when its job is requeued."""
        return self.path / "submission.json"

    def write(self, job: JobSpec, profile: Profile) -> None:
        """Keep the resolved spec and profile for the nodes to read."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "spec.json", job.model_dump(mode="json"))
        write_json(self.path / "profile.json", profile.model_dump(mode="json"))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Add to the MLflow tags that the next controller gives to the run."""
        path = self.run.launch_tags
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **tags})

    def read_job(self) -> JobSpec:
        """The spec that was submitted."""
        return read_kept_job(self.path / "spec.json")

    def read_profile(self) -> Profile:
        """The profile that it was submitted to."""
        return read_kept_profile(self.path / "profile.json")

    def read_submission(self) -> dict[str, Any]:
        """The content of ``submission.json``; empty for a run that was never submitted."""
        return json.loads(self.submission.read_text()) if self.submission.exists() else {}
