"""A keyed mark in pictures that outlives compression and copying, and how it is found again."""
