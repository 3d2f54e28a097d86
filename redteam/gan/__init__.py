"""The bench of generators: what copies are worth, and whether they show the mark."""
