"""``wavetrain downstream``."""
