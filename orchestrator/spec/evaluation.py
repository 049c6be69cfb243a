"""The part of a job spec that says how the model is scored."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.section import Decibels, Positive, Section

Select = Literal["val", "zeroshot", "last"]
ReferenceName = Literal["zero", "repeat_last", "linear", "pad", "prony", "lmmse"]
DEFAULT_REFERENCES: tuple[ReferenceName, ...] = ("zero", "repeat_last", "linear", "prony")


class EvaluationSection(Section):
    """The zero-shot table, and scores beside the training."""

    split: Literal["train", "val", "test"] = "test"
    samples: Positive | None = None
    """At most so many samples of every set; null: all."""
    batch: Positive = 64
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    every_epochs: Positive | None = None
    """Also score the model after every so many epochs, beside the training."""
    validation_samples: Positive = 32
    """Beside the training: at most so many validation samples of every pre-training set."""
    select: Select = "val"
    """What chooses the best model: its validation samples, the zero-shot sets, or nothing (the last one is taken)."""
    references: bool | tuple[ReferenceName, ...] = True
    """Predictions without training that are also scored: true for ``DEFAULT_REFERENCES``, or some by name."""
    link_snr_db: Decibels | None = 10.0
    """Of one antenna, for the spectral efficiency of precoding along predictions; null: directions are not scored."""

    @property
    def reference_names(self) -> tuple[ReferenceName, ...]:
        """Those of ``references``, each once."""
        if isinstance(self.references, bool):
            return DEFAULT_REFERENCES if self.references else ()
        return tuple(dict.fromkeys(self.references))
