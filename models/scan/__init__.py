"""Selective scans: the recurrence of Mamba, its short convolution, and the backends that run them."""

from models.scan.backends import Backend, choose_backend, selective_scan, short_convolution

__all__ = ["Backend", "choose_backend", "selective_scan", "short_convolution"]
