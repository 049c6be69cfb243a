"""What embeddings are worth: heads on a frozen encoder, few labels, other tasks. May import report and tracking."""
