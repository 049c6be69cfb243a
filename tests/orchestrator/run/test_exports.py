"""Exports of a run: complete or absent, nothing left behind, the best one found again."""

import json
from pathlib import Path

from orchestrator.run import exports
from orchestrator.run.folder import RunDirectory


def make_unfinished(export: Path, content: str) -> None:
    folder = exports.unfinished(export)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(content)


def test_an_export_that_waits_stays_and_its_repetition_goes(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    later, export = exports.export_folder(directory, 1200), exports.export_folder(directory, 7)
    make_unfinished(later, "later")
    exports.publish(later)
    for content in ("first", "second"):
        make_unfinished(export, content)
        exports.publish(export)
    assert [path.name for path in sorted(directory.exports.iterdir())] == ["step-000000007", "step-000001200"]
    assert (export / "weights").read_text() == "first"
    assert list(map(exports.step_of, exports.waiting_exports(directory))) == [7, 1200]


def test_exports_that_were_broken_off_are_removed_and_complete_ones_stay(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    exports.remove_unfinished(directory)
    make_unfinished(exports.export_folder(directory, 3), "whole")
    exports.publish(exports.export_folder(directory, 3))
    make_unfinished(exports.export_folder(directory, 6), "half")
    assert exports.waiting_exports(directory) == [exports.export_folder(directory, 3)]
    exports.remove_unfinished(directory)
    assert list(directory.exports.iterdir()) == [exports.export_folder(directory, 3)]


def test_the_best_model_is_found_while_a_better_one_takes_its_place(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert exports.best_so_far(directory) is None
    directory.best.mkdir()
    (directory.best / exports.SCORE).write_text(json.dumps({"step": 4, "nmse": 0.25}))
    assert exports.best_so_far(directory) == exports.BestModel(4, 0.25, "zeroshot")
    directory.best.replace(exports.previous_best(directory))
    assert exports.best_so_far(directory) == exports.BestModel(4, 0.25, "zeroshot")
