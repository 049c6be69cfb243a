"""What every launcher leaves in the folder of a run. May import orchestrator."""
