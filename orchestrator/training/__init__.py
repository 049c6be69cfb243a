"""What every rank runs: DeepSpeed engine, loader, steps, saved state. May import checkpoint and monitoring."""
