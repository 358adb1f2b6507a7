"""Copying finished models to a store."""

from pathlib import Path
from typing import Any

from .show import note


def export_models(study: Path, rungs: Any, url: str | None) -> None:
    """Those of the runs that have these rungs, and say where they are; nothing where no URL was asked for."""
    if url is None:
        return
    from train.stores import export_runs

    for place in export_runs(study, [rung.observation.run for rung in rungs], url):
        note(f"exported {place}")
