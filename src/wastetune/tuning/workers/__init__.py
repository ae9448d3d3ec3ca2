"""Workers: they choose configurations and run trials, in one process or in many."""
