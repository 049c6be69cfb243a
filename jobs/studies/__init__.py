"""The paper's ablations: the runs of a study at a scale, and its tables and figures. May import launch."""
