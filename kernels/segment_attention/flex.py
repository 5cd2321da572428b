"""Placeholder."""


def refusal(like, **facts):
    return "not yet"
