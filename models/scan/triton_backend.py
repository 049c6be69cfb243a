"""Triton's backend of the selective scan; importing it needs Triton."""

from models.scan.problem import Backend
from models.scan.triton_convolution import triton_convolution
from models.scan.triton_scan import triton_scan

TRITON = Backend("triton", "triton (both directions in one kernel)", triton_scan, triton_convolution, half=True)
