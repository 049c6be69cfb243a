"""What is refused before a run is started: nothing of it is written."""

from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from orchestrator.control.prepare import prepare
from orchestrator.spec.cluster import Profile, StorageSection
from tests.jobs_for_tests import small_job


@pytest.mark.parametrize(
    ("sets", "says"),
    [(["R1", "R2"], "set R2: positions: 33 tokens"), (["R1", "R3"], "set H2: positions: 33 tokens")],
    ids=["to train on", "held out"],
)
def test_a_set_that_the_model_cannot_take_is_named(
    sets: list[str], says: str, small_store: Path, tmp_path: Path
) -> None:
    model: dict[str, Any] = {"name": "lwm", "size": "tiny", "patches": [2], "positions": 17}
    job = small_job(small_store, replace_model=model, scale={"workers": 1}, data={"sets": sets})
    with pytest.raises(UserError, match=says) as error:
        prepare(job, Profile(storage=StorageSection(runs=tmp_path / "runs")))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
