"""The gateway: HTTP in front, one model and its chain behind, and the command line that runs it."""
