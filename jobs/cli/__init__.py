"""The commands of ``wavetrain``. May import everything."""
