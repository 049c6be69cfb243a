"""Pages, figures and tables of runs and plans. May import evaluation and run."""
