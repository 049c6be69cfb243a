"""Channel data: what a CSI sample is, where it comes from and how it lies on disk."""
