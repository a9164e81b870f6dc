"""What is known of the nodes of OpenVINO's graphs (floor 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHANNELS_FIRST",
    "CHANNELS_LAST",
    "POINTWISE",
    "UPSAMPLING",
    "following",
    "is_crop",
    "name_of",
    "shape_of",
    "values_of",
]

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""how the axes of an image are turned, and turned back"""

POINTWISE = frozenset({
    "Abs", "Add", "Clamp", "Convert", "Divide", "Elu", "Equal", "Exp", "FakeQuantize", "Gelu", "Greater",
    "GreaterEqual", "HSigmoid", "HSwish", "HardSigmoid", "IsFinite", "Less", "LessEqual", "Log", "LogicalAnd",
    "LogicalNot", "LogicalOr", "Maximum", "Minimum", "Mish", "Multiply", "Negative", "PRelu", "Relu", "Round", "Select",
    "Selu", "Sigmoid", "SoftPlus", "Sqrt", "Subtract", "Swish", "Tanh",
})  # fmt: skip
"""kinds of nodes that make each pixel of that pixel alone"""

UPSAMPLING = frozenset({"ConvolutionBackpropData", "Interpolate"})
"""kinds of nodes that enlarge images"""


def name_of(node: Any) -> str:
    """A name that no other node of the process has; the one that graphs give need not be anybody's alone."""
    return str(node.get_name())


def shape_of(output: Any) -> list[int]:
    """Sides of what an output holds."""
    return list(output.get_shape())


def values_of(node: Any, index: int) -> NDArray[np.int64]:
    """Of an input of a node that is constant."""
    return np.asarray(node.input(index).get_source_output().get_node().get_data(), np.int64)


def following(ordered: Sequence[Any], names: set[str]) -> set[str]:
    """Names of these nodes and of all that depend on them; a model's are in order, each after those that it reads."""
    found = set(names)
    for node in ordered:
        if any(name_of(entry.get_source_output().get_node()) in found for entry in node.inputs()):
            found.add(name_of(node))
    return found


def is_crop(node: Any) -> bool:
    """Whether a slice is one of rows and columns, whose places are known."""
    if any(node.input(index).get_source_output().get_node().get_type_name() != "Constant" for index in range(1, 5)):
        return False
    places = np.concatenate([values_of(node, 1), values_of(node, 2)])
    shape = shape_of(node.input(0).get_source_output())
    ends = all(end <= shape[axis] for end, axis in zip(values_of(node, 2), values_of(node, 4), strict=True))
    return ends and places.min() >= 0 and set(values_of(node, 3)) == {1} and set(values_of(node, 4)) <= {2, 3}
