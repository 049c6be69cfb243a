"""Jobs on a Ray cluster that somebody else started. May import slurm and what is below."""
