"""The command line, the launchers and the shipped job specs."""
