"""Who trains on what, and when: buckets, schedules and their measures."""
