"""A run in progress: its curve, the law of its trajectory, where it ends, and what looks ill."""
