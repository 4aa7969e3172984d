"""Tasks: what a network answers, and how two answers are compared, one number per image."""
