"""The controller: checks, Ray, worker group, failures, scoring, tracking. May import every room of the orchestrator."""
