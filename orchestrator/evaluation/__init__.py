"""Zero-shot scores of exported weights and their tables. May import data."""
