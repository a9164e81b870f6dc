"""Two values of every mask that mean the same everywhere (floor 0)."""

from __future__ import annotations

__all__ = ["BACKGROUND", "NODATA"]

BACKGROUND = 0
"""Mask code of a pixel that belongs to no class."""

NODATA = 255
"""Mask code and confidence of a pixel without data."""
