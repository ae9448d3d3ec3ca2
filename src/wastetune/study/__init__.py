"""One study as a whole: its trials, its final model and its report."""
