"""The detection bench: who is caught, how soon, and what watching costs."""
