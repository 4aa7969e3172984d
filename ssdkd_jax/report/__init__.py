"""What a user sees of a run: progress, curves, pictures, and the machine it ran on."""
