"""One scene on a Dask cluster that already runs.

``python workflows/one_scene.py SCENE DIR tcp://host:8786``. Start the cluster with ``dask scheduler`` and, on each
machine, ``dask worker tcp://host:8786 --nthreads 1 --nworkers 8`` (``--resources GPU=1 --nworkers 1`` on a machine with
a GPU). All workers must see SCENE and DIR under the same paths. The command goes on where an earlier one was stopped,
on this cluster or another.
"""

from __future__ import annotations

import sys

import geoseg
from geoseg.errors import GeosegError


def main(scene: str, directory: str, scheduler: str) -> None:
    """Runs one scene and prints what was found."""
    result = geoseg.run(scene, directory, execution=geoseg.Execution(scheduler=scheduler))
    for name, layer in result.layers.items():
        print(f"{name}: {layer.polygons} polygons, {layer.area_m2 / 1e4:.1f} ha, {layer.share:.1%}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GeosegError as error:  # a message says in one line what to do
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
