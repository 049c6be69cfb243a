"""What an embedded Ray leaves when its controller is killed is ended, and nothing else."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.control.owned_folders import SessionMemory
from orchestrator.control.ray_train import reaper


def test_the_reaper_ends_only_what_belongs_to_its_folder(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=tmp_path))
    memory = Path(SessionMemory(folder).environment[reaper.MEMORY])
    (memory / "state").touch()
    assert SessionMemory(folder).environment == {}, "a folder that is there already may be somebody else's"
    (folder / "log").touch()
    with (folder / "log").open("a") as log:
        by_file = subprocess.Popen(sleeper, stdout=log)
    by_environment = subprocess.Popen(sleeper, env={**os.environ, reaper.MARK: f"{folder}/token"})
    bystander = subprocess.Popen(sleeper, env={**os.environ, reaper.MARK: f"{tmp_path}/session2/token"})
    try:
        reaper_process = reaper.start(folder)
        time.sleep(0.5)
        assert by_file.poll() is None and by_environment.poll() is None
        reaper_process.communicate(timeout=60)
        assert by_file.wait(60) == -9 and by_environment.wait(60) == -9
        assert bystander.poll() is None
        assert not folder.exists() and not memory.exists()
    finally:
        for process in (by_file, by_environment, bystander):
            process.kill()
            process.wait()
