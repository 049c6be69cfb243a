"""The package mamba-ssm: what a whole one consists of. Found, not loaded, so this needs no torch."""

import importlib.util

PACKAGE = "mamba_ssm"
EXTENSION = "selective_scan_cuda"
"""Compiled with CUDA; an installation from source may lack it."""


def missing_part() -> str | None:
    """What is not installed of it, in one line, or None."""
    if importlib.util.find_spec(PACKAGE) is None:
        return "the package mamba-ssm is not installed"
    if importlib.util.find_spec(EXTENSION) is None:
        return f"mamba-ssm is installed without its compiled extension {EXTENSION}"
    return None
