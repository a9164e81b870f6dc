"""The process of the ``geoseg`` command, which ``python -m geoseg`` is, too (floor 6)."""

from __future__ import annotations

import gc

from geoseg.machine import keep_memory

__all__ = ["start"]

_OBJECTS = 100_000  # to be made between two looks for garbage


def start() -> None:
    """Runs the command line and exits."""
    # Loading packages makes some hundred thousand objects that stay. To look through them time and again, and once more
    # in the end, took half a second.
    gc.set_threshold(_OBJECTS)
    keep_memory()
    from geoseg.cli import main

    try:
        main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    start()
