"""Controller, workers, checkpoints, evaluation and tracking of a run."""
