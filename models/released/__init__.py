"""Released checkpoints of the published networks as models of ours. May import everything else of models."""
