"""What a user specifies: job spec, cluster profile, YAML files with one-line errors. May import models.options only."""
