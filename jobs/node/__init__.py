"""What runs on a node of a job: checks, rendezvous, Ray, keepalive. May import launch."""
