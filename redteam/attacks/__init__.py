"""Attacks: one file each, and each sees nothing but an oracle."""
