"""Every error that geoseg raises on purpose.

::

    GeosegError
    ├── InputError         bad usage or input; nothing was written          exit 2
    │   ├── SceneError       a scene that cannot be read, or lacks what the run needs
    │   ├── ModelError       a model or card that cannot be used
    │   ├── SettingsError    a setting out of its range, or two that exclude each other
    │   └── OutputError      an output that exists with other settings, or cannot be written
    │       └── ChangedError   an output of the same settings, of a file that has changed since
    ├── ReadError          pixels that could not be read this time                 exit 1
    ├── WriteError         no room or no right to write; what was finished is kept      exit 1
    ├── ChunkError         some chunk failed; the rest is kept, run again to resume   exit 1
    └── CatalogueError     some scenes failed; the others are done, run again for the rest   exit 1

A message is one line: what was given, what was expected, what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CatalogueError",
    "ChangedError",
    "ChunkError",
    "GeosegError",
    "InputError",
    "ModelError",
    "OutputError",
    "ReadError",
    "SceneError",
    "SettingsError",
    "WriteError",
]


class GeosegError(Exception):
    """Base of all errors that geoseg raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(GeosegError):
    """Bad usage or input. Nothing was written."""

    exit_code: ClassVar[int] = 2


class SceneError(InputError):
    """A scene that cannot be read, or lacks what the run needs."""


class ModelError(InputError):
    """A model or card that cannot be used."""


class SettingsError(InputError):
    """A setting out of its range, or two that exclude each other."""


class OutputError(InputError):
    """An output that exists with other settings, or cannot be written."""


class ChangedError(OutputError):
    """An output of the same settings, but of a file that was changed, repaired or copied since."""


class ReadError(GeosegError):
    """Pixels that could not be read this time: a damaged block, a connection that broke.

    Attributes:
        passing: whether to wait may help: the source is away, or not as it was, or on the network. A source that is
            there as it was has a damage that stays.
    """

    passing: bool = True


class WriteError(GeosegError):
    """What a run made could not be written: a full disk, a quota, a directory that became read-only.

    What was finished is kept; running again resumes.
    """


class ChunkError(GeosegError):
    """Some chunk failed. The finished chunks are kept; running again resumes."""


class CatalogueError(GeosegError):
    """Some scenes of a catalogue failed. The others are done and merged; running again does the missing ones."""
