"""The compiled CUDA operations of the packages mamba-ssm and causal-conv1d: whether they are there, whether they load.

Only the compiled modules are used: the packages' own Python needs more packages (transformers, huggingface_hub).
Importing this needs no torch; loading an operation does.
"""

import importlib
import importlib.util
from functools import cache
from types import ModuleType

SCAN = "selective_scan_cuda"
"""Of mamba-ssm; an installation from source may lack it."""
CONVOLUTION = "causal_conv1d_cuda"
OPERATIONS = {SCAN: "mamba-ssm", CONVOLUTION: "causal-conv1d"}
"""Compiled modules and the packages that bring them."""
MODULES = {SCAN: "mamba_ssm", CONVOLUTION: "causal_conv1d"}


def missing_part(operation: str = SCAN) -> str | None:
    """Why an operation is not installed, in one line, or None. Nothing is loaded."""
    if importlib.util.find_spec(operation) is not None:
        return None
    if importlib.util.find_spec(MODULES[operation]) is None:
        return f"the package {OPERATIONS[operation]} is not installed"
    return f"{OPERATIONS[operation]} is installed without its compiled extension {operation}"


@cache
def load_fault(operation: str) -> str | None:
    """Why an operation cannot be called, in one line, or None. Loads it where it is installed, and torch before it."""
    if (missing := missing_part(operation)) is not None:
        return missing
    try:
        # The extension is linked with torch's libraries, which its import finds once torch is there.
        importlib.import_module("torch")
        importlib.import_module(operation)
    except Exception as error:  # An extension built for another PyTorch fails in many ways.
        return f"{operation} is installed but does not load ({' '.join(str(error).split())[:200]})"
    return None


def load(operation: str) -> ModuleType:
    """The compiled module. Raises ImportError with the reason where it does not load."""
    if (fault := load_fault(operation)) is not None:
        raise ImportError(fault)
    return importlib.import_module(operation)
