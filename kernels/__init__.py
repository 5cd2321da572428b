"""Recurrences, scans and attention as pure functions of tensors: a definition, and faster forms of it, for each."""
