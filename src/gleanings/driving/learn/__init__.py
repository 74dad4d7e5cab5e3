"""Learning to drive."""
