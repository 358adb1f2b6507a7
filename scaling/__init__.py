"""Scaling laws: what runs teach, and what to run next.

The names below load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Allocation": "laws",
    "Law": "laws",
    "Run": "runs",
    "fit": "fitting.fit",
    "read_runs": "runs.readers",
}
__all__ = ["Allocation", "Law", "Run", "__version__", "fit", "read_runs"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scaling' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
