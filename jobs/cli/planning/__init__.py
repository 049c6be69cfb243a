"""``wavetrain plan``: of a job spec, or of a preset without any data."""
