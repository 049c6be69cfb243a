"""The study of Fig. 3 from its channels to its figures; what an earlier call has done is not done again."""

from collections.abc import Callable, Sequence
from pathlib import Path

from channels.catalogue import Counts, make_store
from channels.files import clear_unfinished
from channels.importers.options import ImportOptions
from channels.importers.survey import survey
from channels.importers.write import import_sets, named_for
from jobs.launch.comparison import run_comparison
from jobs.launch.sweep import open_parent
from jobs.studies.children import run_child
from jobs.studies.downstream.spec import DESCRIPTION, NAME, DownstreamStudy
from jobs.studies.spec import Child
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import TrackingSection

SPACING_KHZ = 480.0
"""Of a DeepMIMO scenario's channels: over 32 subcarriers of 30 kHz they are flat."""
Say = Callable[[str], None]
"""Takes a line about the progress."""


def run_downstream_study(
    study: DownstreamStudy, waiting: Sequence[Child], profile: Profile, options: Sequence[str], say: Say
) -> list[Path]:
    """Import the labelled channels, make the others, pre-train what waits, compare; the files of all comparisons.

    options: of the command line, those that choose the profile.

    Raises:
        ChildFailedError: a pre-training did not finish.
        UserError: channels cannot be imported or made, or a comparison is refused.
    """
    runs = profile.storage.runs
    folder = runs / f"{study.name}.sweep"
    folder.mkdir(parents=True, exist_ok=True)
    clear_unfinished(folder)
    tracker = open_parent(study.name, TrackingSection(), profile)
    tracker.tags({"wavetrain.study": NAME, "mlflow.note.content": DESCRIPTION})
    try:
        sets = {source: import_labelled(study, source, say) for source in study.sources}
        make_pretraining_store(study, say)
        for number, child in enumerate(waiting, start=1):
            say(f"run {number} of {len(waiting)}: {child.job.name}")
            run_child(child, runs, folder, tracker.run_id, options)
        files = []
        for source in study.sources:
            say(f"downstream tasks on {source}")
            spec, exports = study.comparison(source, sets[source], runs)
            files += run_comparison(spec, exports, profile, say, above=tracker.run_id)
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end("FINISHED")
    return files


def import_labelled(study: DownstreamStudy, source: str, say: Say) -> list[str]:
    """Read the channels of a source into a store of their own; sets that it has are left as they are. Their names."""
    store = study.labelled_store(source)
    options = ImportOptions(store=store, spacing_khz=SPACING_KHZ)
    found = named_for(survey(study.sources[source], options), store, options)
    store.parent.mkdir(parents=True, exist_ok=True)
    import_sets(found, store, options, lambda name, done, total: _say_done(say, name, done, total))
    return [one.name for one in found.sets]


def make_pretraining_store(study: DownstreamStudy, say: Say) -> None:
    """Make the channels that are not there yet."""
    study.store.parent.mkdir(parents=True, exist_ok=True)
    counts = Counts(train=study.scale.samples, val=0, test=0)
    make_store(study.store, study.preset, counts, study.seed,
               lambda name, done, total: _say_done(say, name, done, total))  # fmt: skip


def _say_done(say: Say, name: str, done: int, total: int) -> None:
    if done == total:
        say(f"channels of {name}: {total} samples")
