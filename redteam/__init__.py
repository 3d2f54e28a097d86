"""Attacks on the gateway, and what they measure."""
