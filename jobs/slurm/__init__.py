"""Slurm through submitit: submission, limits, states, the batch step of a node. May import node and launch."""
