"""One study, from its file to its report."""
