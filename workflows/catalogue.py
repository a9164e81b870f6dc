"""A catalogue of overlapping scenes: a layer set of each, and a merged one in which nothing is found twice.

``python workflows/catalogue.py DIR SCENE...``, where SCENE is a raster, a folder, a glob, a CSV with a column ``path``,
a STAC file, or a collection of a STAC API. It goes on where an earlier run was stopped, and does scenes that were
added.
"""

from __future__ import annotations

import sys

import geoseg
from geoseg.errors import GeosegError


def main(directory: str, *scenes: str) -> int:
    """Runs the scenes and prints what was found; 1 where some scene failed: the others are done and merged."""
    try:
        result = geoseg.run_catalogue(scenes, directory)
    except GeosegError as error:  # a message says in one line what to do
        print(error, file=sys.stderr)
        return error.exit_code
    for name, layer in result.layers.items():
        print(f"{name}: {layer.polygons} polygons, {layer.area_m2 / 1e4:.1f} ha")
    for scene in result.scenes:
        print(f"{scene.name}: {scene.state}, {sum(scene.polygons.values())} polygons")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
