from pathlib import Path

import pytest

from channels.catalogue import Counts, make_store, select_sets
from channels.errors import UserError
from channels.presets import load_preset


@pytest.mark.parametrize("chosen", ["0", "41", "9" * 5000])
def test_a_number_of_sets_out_of_range_is_refused(chosen: str):
    with pytest.raises(UserError, match=r"--sets: \d+ pre-training sets are asked for, preset hetercsi has 40; ask"):
        select_sets(load_preset("hetercsi"), chosen)


def test_nothing_to_make_is_refused(tmp_path: Path):
    only_held_out = select_sets(load_preset("hetercsi"), "D1")
    with pytest.raises(UserError, match="no samples are asked for"):
        make_store(tmp_path / "store", only_held_out, Counts(train=10, val=1, test=0), 0, lambda *_: None)
    assert not (tmp_path / "store").exists()
