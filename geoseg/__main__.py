"""``python -m geoseg`` is the ``geoseg`` command."""

from geoseg.cli import main

main()
