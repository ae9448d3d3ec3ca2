"""What to try next. Nothing here writes to a study."""
