"""From a channel store to token batches and the schedule that orders them. May import spec."""
