"""What a run keeps on disk and how its processes talk: folder, events, failures, signals. May import spec."""
