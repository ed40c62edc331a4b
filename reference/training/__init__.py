"""Training DiffPose: synthetic views of motion capture, the two stages, and what they measure for the runtime."""
