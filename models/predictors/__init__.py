"""Predictions of channels that need no training: vector Prony, and linear minimum-mean-square-error estimation."""
