"""Ray and Ray Train: the embedded cluster, the trainer, and our rules as its policies."""
