"""Optimizers of a run, whatever share of the weights a rank holds."""
