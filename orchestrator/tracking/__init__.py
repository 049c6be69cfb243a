"""MLflow: what is sent, kept when it does not answer, and shown. May import run."""
