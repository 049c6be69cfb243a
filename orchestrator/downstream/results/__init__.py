"""Scores of downstream tasks: what is kept of them, tables, figures and MLflow."""
