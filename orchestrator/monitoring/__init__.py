"""What watches a rank and its machine: hangs, stragglers, spikes, profiles. May import run."""
