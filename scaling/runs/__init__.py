"""Runs: their records, the table that holds them, the readers and the append-only store."""

from .run import RUNS_VERSION, Run, RunTable

__all__ = ["RUNS_VERSION", "Run", "RunTable"]
