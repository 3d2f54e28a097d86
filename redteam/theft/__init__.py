"""A theft from a running gateway, as the command ``attack`` orders it."""
