"""What several benchmarks share: the record, the clock, and code of others that is compared with."""
