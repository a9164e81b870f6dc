"""Networks that do not compute what is cropped from their results (floor 3).

Of a tile's result the halo is cropped, which only the deep layers need to see. On the way back up each layer needs what
is under the core and as much around it as the layers after it reach, which is less and less. So images are cropped
where they are upsampled, and those of skip connections as far as what they are added to; all else stays as it is, and
so does every value that is used.

The other way round this is how the size of a result follows from that of its input where convolutions do not pad
(O. Ronneberger et al., *U-Net: Convolutional Networks for Biomedical Image Segmentation*, 2015,
https://arxiv.org/abs/1505.04597, figure 1), which also crops its skip connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from geoseg.models.nodes import POINTWISE, UPSAMPLING, is_crop, name_of, shape_of, values_of

__all__ = ["narrow"]

_LEAST = 0.02  # of an image's side, else it is not worth a copy
_CONVOLUTIONS = {"Convolution", "GroupConvolution"}

_Margin: TypeAlias = tuple[int, int]
"""rows and columns at each side of an image that are not needed, or no longer there"""

_NONE: _Margin = (0, 0)


def narrow(openvino: Any, model: Any) -> None:
    """Crops images inside a model whose results are crops.

    Args:
        openvino: the package.
        model: of fixed shapes, without operations on these; it is changed.
    """
    nodes = model.get_ordered_ops()
    spare: dict[Any, _Margin] = {}  # at each side of an output
    asked: dict[Any, list[_Margin]] = {}  # of each input of a node: what it leaves unused
    for node in reversed(nodes):
        if node.get_output_size() == 1:
            asked[name_of(node)] = _asked(node, spare.get(_key(node.output(0)), _NONE))
        else:
            asked[name_of(node)] = [_NONE] * node.get_input_size()
        for entry, margin in zip(node.inputs(), asked[name_of(node)], strict=True):
            key = _key(entry.get_source_output())
            spare[key] = _least([margin, spare[key]]) if key in spare else margin
    _Cropper(openvino.opset13, asked).go_over(nodes)
    model.validate_nodes_and_infer_types()


class _Cropper:
    """Puts crops into a model, going down it."""

    def __init__(self, operations: Any, asked: dict[Any, list[_Margin]]) -> None:
        self._operations = operations
        self._asked = asked
        self._lost: dict[Any, _Margin] = {}  # by outputs
        self._sides: dict[Any, tuple[int, int]] = {}  # that they had
        self._crops: dict[Any, Any] = {}

    def go_over(self, nodes: Sequence[Any]) -> None:
        for node in nodes:
            self._sides |= {_key(output): _sides(output) for output in node.outputs()}
        for node in nodes:
            sources = [_key(entry.get_source_output()) for entry in node.inputs()]
            lost = [self._lost.get(source, _NONE) for source in sources]
            kind = node.get_type_name()
            goal = _NONE
            if kind in UPSAMPLING:
                goal = self._enlarge(node, lost[0])
            elif kind in _CONVOLUTIONS and set(node.get_attributes()["strides"]) != {1}:
                goal = self._shrink(node, lost[0])
            elif kind == "Slice":
                goal = self._move(node, lost[0])
            elif any(margin != _NONE for margin in lost):
                goal = max(margin[0] for margin in lost), max(margin[1] for margin in lost)
                for index, (source, margin) in enumerate(zip(sources, lost, strict=True)):
                    if margin != goal and self._sides[source] == self._sides[_key(node.output(0))]:
                        self._crop(node, index, margin, goal)
            if goal != _NONE:
                self._lost[_key(node.output(0))] = goal

    def _enlarge(self, node: Any, lost: _Margin) -> _Margin:
        """Crops what a node makes larger, as far as it is worth it; what the result has lost."""
        given = self._asked[name_of(node)][0]
        small, large = (self._sides[_key(output)] for output in (node.input(0).get_source_output(), node.output(0)))
        if self._worth(given, lost, small):
            self._crop(node, 0, lost, given)
            lost = given
        found = lost[0] * large[0] // small[0], lost[1] * large[1] // small[1]
        if found != _NONE and node.get_attributes().get("shape_calculation_mode") == "sizes":  # it is told its result's
            sides = self._operations.constant(values_of(node, 1) - [0, 0, 2 * found[0], 2 * found[1]])
            node.input(1).replace_source_output(sides.output(0))
        return found

    def _shrink(self, node: Any, lost: _Margin) -> _Margin:
        """Crops what a node makes smaller by whole steps; what the result has lost."""
        if lost == _NONE:
            return _NONE
        rows, cols = node.get_attributes()["strides"]
        found = -(-lost[0] // rows), -(-lost[1] // cols)
        goal = found[0] * rows, found[1] * cols
        if goal != lost:
            self._crop(node, 0, lost, goal)
        return found

    @staticmethod
    def _worth(margin: _Margin, lost: _Margin, sides: tuple[int, int]) -> bool:
        return all(2 * (one - gone) >= _LEAST * side for one, gone, side in zip(margin, lost, sides, strict=True))

    def _crop(self, node: Any, index: int, lost: _Margin, goal: _Margin) -> None:
        """Crops an input of a node that has lost so much, until it has lost so much.

        What is made for this node alone is cropped before it is made: pixel by pixel, or by a convolution, if what that
        makes of the edges is not needed either.
        """
        source = node.input(index).get_source_output()
        maker = source.get_node()
        if len(source.get_target_inputs()) == 1:
            if maker.get_type_name() in _CONVOLUTIONS and set(maker.get_attributes()["strides"]) == {1}:
                given = self._asked[name_of(maker)][0]
                if lost == _NONE and given[0] >= goal[0] and given[1] >= goal[1]:
                    self._crop(maker, 0, lost, goal)
                    return
            if maker.get_type_name() in POINTWISE and self._is_of_first_alone(maker):
                self._crop(maker, 0, lost, goal)
                return
        key = _key(source), goal
        if key not in self._crops:
            rows, cols = self._sides[_key(source)]
            begin = [goal[0] - lost[0], goal[1] - lost[1]]
            end = [rows - goal[0] - lost[0], cols - goal[1] - lost[1]]
            self._crops[key] = self._operations.slice(source, begin, end, [1, 1], [2, 3]).output(0)
        node.input(index).replace_source_output(self._crops[key])

    def _is_of_first_alone(self, node: Any) -> bool:
        """Whether a node makes an image of its first input, all others being the same for all pixels."""
        image, *others = (entry.get_source_output() for entry in node.inputs())
        return self._sides[_key(image)] == self._sides[_key(node.output(0))] and all(map(_is_for_all, others))

    def _move(self, node: Any, lost: _Margin) -> _Margin:
        """Moves a crop of an image that has lost so much; what its result has lost."""
        if lost == _NONE:
            return _NONE
        axes = values_of(node, 4)
        for index in (1, 2):
            places = values_of(node, index) - [lost[axis - 2] for axis in axes]
            node.input(index).replace_source_output(self._operations.constant(places).output(0))
        return _NONE if 2 in axes and 3 in axes else (0, lost[1]) if 2 in axes else (lost[0], 0)


def _asked(node: Any, spare: _Margin) -> list[_Margin]:
    """Margins of a node's inputs that it leaves unused where so much of its output is not needed."""
    kind, inputs = node.get_type_name(), [entry.get_source_output() for entry in node.inputs()]
    nothing = [_NONE] * len(inputs)
    if len(shape_of(node.output(0))) != 4:
        return nothing
    own = _sides(node.output(0))
    if kind in POINTWISE or (kind == "Concat" and node.get_attributes()["axis"] == 1):
        alike = [_sides(source) == own for source in inputs]
        known = all(same or _is_for_all(source) for same, source in zip(alike, inputs, strict=True))
        return [spare if same and known else _NONE for same in alike]
    if kind in _CONVOLUTIONS:
        facts = node.get_attributes()
        steps = facts["strides"]
        if _sides(inputs[0]) == (own[0] * steps[0], own[1] * steps[1]):
            return [_asked_by_convolution(node, spare), *nothing[1:]]
    if kind in _OF_THE_FIRST:
        return [_OF_THE_FIRST[kind](node, spare), *nothing[1:]]
    if kind == "Slice" and len(inputs) == 5 and is_crop(node):
        found = list(spare)
        for begin, end, axis in zip(values_of(node, 1), values_of(node, 2), values_of(node, 4), strict=True):
            found[axis - 2] = min(begin, shape_of(inputs[0])[axis] - end)
        return [_at_least_0(*found), *nothing[1:]]
    return nothing


def _asked_by_convolution(node: Any, spare: _Margin) -> _Margin:
    """The same of an image as large as its result, or larger by whole steps; whole steps of it."""
    facts, sides, found = node.get_attributes(), _sides(node.input(1).get_source_output()), []
    for axis in (0, 1):
        stride, before = facts["strides"][axis], facts["pads_begin"][axis]
        span = facts["dilations"][axis] * (sides[axis] - 1)
        # the first result that counts sees from spare * stride - before on, the last as far as span beyond its own
        least = min(spare[axis] * stride - before, (spare[axis] + 1) * stride - 1 + before - span)
        found.append(least // stride * stride)
    return _at_least_0(*found)


def _asked_by_repeating(node: Any, spare: _Margin) -> _Margin:
    """The same of an image whose pixels are repeated."""
    facts, large, small = node.get_attributes(), _sides(node.output(0)), _sides(node.input(0).get_source_output())
    told = node.input(1).get_source_output().get_node()
    fits = (
        facts["mode"] == "nearest"
        and (facts["coordinate_transformation_mode"], facts["nearest_mode"]) == ("asymmetric", "floor")
        and {*facts["pads_begin"], *facts["pads_end"]} == {0}
        and node.get_input_size() == 2
        and told.get_type_name() == "Constant"
        and all(much % little == 0 for much, little in zip(large, small, strict=True))
    )
    return (spare[0] * small[0] // large[0], spare[1] * small[1] // large[1]) if fits else _NONE


def _asked_by_transposed(node: Any, spare: _Margin) -> _Margin:
    """The same of the image that a transposed convolution makes larger."""
    facts, (image, weight) = node.get_attributes(), (entry.get_source_output() for entry in node.inputs()[:2])
    large, small, found = _sides(node.output(0)), _sides(image), []
    for axis in (0, 1):
        stride, before = facts["strides"][axis], facts["pads_begin"][axis]
        fits = node.get_input_size() == 2 and large[axis] == stride * small[axis] and facts["dilations"][axis] == 1
        # a pixel i of the image is met by those from i * stride - before on, as many as the weight is long
        first = -(-(spare[axis] + before - _sides(weight)[axis] + 1) // stride)
        last = -(-(spare[axis] + 1 - before) // stride) - 1
        found.append(min(first, last) if fits else 0)
    return _at_least_0(*found)


_OF_THE_FIRST = {  # kinds of nodes whose other inputs are no images
    "BatchNormInference": lambda _, spare: spare,
    "ConvolutionBackpropData": _asked_by_transposed,
    "Interpolate": _asked_by_repeating,
}


def _is_for_all(output: Any) -> bool:
    """Whether what an output holds is the same for all rows and columns."""
    shape = shape_of(output)
    return int(np.prod(shape)) == 1 or (len(shape) > 1 and tuple(shape[-2:]) == (1, 1))


def _least(margins: Sequence[_Margin]) -> _Margin:
    return min(margin[0] for margin in margins), min(margin[1] for margin in margins)


def _at_least_0(rows: int, cols: int) -> _Margin:
    return max(0, int(rows)), max(0, int(cols))


def _sides(output: Any) -> tuple[int, int]:
    """Rows and columns; of what has none, none."""
    shape = shape_of(output)
    return (shape[-2], shape[-1]) if len(shape) > 1 else (0, 0)


def _key(output: Any) -> tuple[str, int]:
    return name_of(output.get_node()), int(output.get_index())
