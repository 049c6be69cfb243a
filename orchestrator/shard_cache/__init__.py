"""Copies of shards on node-local disks, and which rank reads which. May import data."""
