"""Fig. 3 of the WiMamba paper: pre-training on made channels, then downstream tasks on labelled ones."""
