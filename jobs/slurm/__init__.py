"""Slurm through submitit: submission, limits, states, and a node's part from start to requeue. May import node."""
