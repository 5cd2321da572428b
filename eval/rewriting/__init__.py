"""The memory-rewriting benchmark: its tasks, what was found on them, and how that is shown."""
