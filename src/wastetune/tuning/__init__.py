"""A study in progress: its file, what is prepared for it, and its trials, in one process or many."""
