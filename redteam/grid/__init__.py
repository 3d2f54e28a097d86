"""The grid of attacks and defenses, and the report made of its records."""
