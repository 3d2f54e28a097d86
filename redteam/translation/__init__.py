"""The bench of translators: what copies and defenses are worth."""
