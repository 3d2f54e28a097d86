"""Events: what the gateway decided about its clients, in a log that cannot be changed unnoticed."""
