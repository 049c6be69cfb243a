"""Models that the others are compared with, each of one scale of set."""
