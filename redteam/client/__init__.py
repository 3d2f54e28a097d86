"""How a thief reaches a target: oracles that count, and what a thief does about accounts, noise and cover."""
