"""Loggers for trainings that run elsewhere: a callback for transformers, one for Lightning, and three functions.

Each writes what `scaling train` writes of its own runs, so that `scaling fit --study`, `watch` and `report` read it. The
names load on first use; importing this package imports neither torch nor a trainer.
"""

from typing import TYPE_CHECKING

__all__ = ["LightningRunLogger", "LoggedRun", "RunLogger", "finish", "log", "start"]

if TYPE_CHECKING:
    from .lightning import LightningRunLogger
    from .record import LoggedRun, finish, log, start
    from .trainer import RunLogger
else:
    _HOMES = {
        "LightningRunLogger": "lightning",
        "LoggedRun": "record",
        "RunLogger": "trainer",
        "finish": "record",
        "log": "record",
        "start": "record",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'scaling.integrations' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return __all__
