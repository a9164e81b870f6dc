"""All GPUs of one machine: ``python workflows/gpu_box.py DIR SCENE...``, scenes as in ``catalogue.py``.

Each GPU gets a process of its own; the vector half runs on the CPU cores besides. With one GPU, or none asked for,
there are threads instead. ``CUDA_VISIBLE_DEVICES`` says which GPUs may be used.
"""

from __future__ import annotations

import os
import sys

import geoseg
from geoseg.errors import GeosegError


def main(directory: str, *scenes: str) -> None:
    """Runs the scenes on CUDA, or what GEOSEG_DEVICE names, and prints what it took."""
    settings = geoseg.RunSettings(device=os.environ.get("GEOSEG_DEVICE", "cuda"))  # type: ignore[arg-type]
    result = geoseg.run_catalogue(scenes, directory, settings=settings)
    for stage in result.stages:
        rate = f", {stage.pixels / 1e6 / stage.seconds:.1f} Mpx/s" if stage.pixels and stage.seconds else ""
        print(f"{stage.name}: {stage.seconds:.1f} s{rate}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GeosegError as error:  # a message says in one line what to do
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
