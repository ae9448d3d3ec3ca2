"""Known data sets, their download, and generated pictures."""
