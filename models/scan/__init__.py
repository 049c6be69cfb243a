"""Selective scans: the recurrence of Mamba, its short convolution, and the backends that run them."""
