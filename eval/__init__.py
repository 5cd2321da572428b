"""Evaluation: protocols, statistics, pictures."""
