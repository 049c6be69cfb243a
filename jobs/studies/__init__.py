"""The paper's ablations as data: which runs a study has, and at which scales it can be made."""
