"""Complete training states on disk: format, writer, fragments of ranks. May import run."""
