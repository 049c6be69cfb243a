"""The fault matrix: its cases, how each breaks a run, and what may be left behind."""
