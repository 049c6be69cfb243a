"""What runs on a node of a job: checks, rendezvous, keepalive, Ray. May import launch."""
