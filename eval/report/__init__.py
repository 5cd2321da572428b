"""Reports on runs: read, put in groups, measured, and shown as tables, curves, one page, and rows of results."""
