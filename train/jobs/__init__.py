"""Many processes on one machine: the pool, the ranks of one run, and ladders side by side."""
