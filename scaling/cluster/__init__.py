"""Sweeps on many machines or in a queue: claims, tasks, profiles, batch files, submission."""
