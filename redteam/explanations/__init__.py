"""The bench of explanations: what they are worth to thieves and to people."""
