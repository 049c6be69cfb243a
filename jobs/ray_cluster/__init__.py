"""Jobs on a Ray cluster that somebody else started. May import launch."""
