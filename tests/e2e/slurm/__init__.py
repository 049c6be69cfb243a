"""Runs on a real Slurm that others end, and those of several users."""
