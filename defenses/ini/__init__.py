"""Isolation and Induction: training that leaves a thief's foreign queries with nothing to learn from."""
