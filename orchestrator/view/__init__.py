"""What a terminal shows of a run under way. May import run."""
