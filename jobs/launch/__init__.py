"""What launchers share: launch folder, status, job states, sweeps, the controller. May import orchestrator."""
