"""Parts of networks that are computed in blocks of pixels, so that caches hold what they make (floor 3).

The layers near the image make the largest images of all, which no cache holds; one after the other over the whole tile
they wait for memory. In blocks they need not. A block is as much larger than what is kept of it as these layers reach,
so that every value that is kept is what it would be without blocks (M. Alwani et al., *Fused-layer CNN accelerators*,
2016, https://doi.org/10.1109/MICRO.2016.7783725). Of blocks of as many pixels squares lose least to their margins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from geoseg.models.nodes import CHANNELS_FIRST, CHANNELS_LAST, POINTWISE, following, name_of, shape_of, values_of

__all__ = ["COLS", "ROWS", "Axis", "Blocks", "Cuts", "Place", "find_cuts", "free_crop"]

Axis: TypeAlias = Literal[0, 1]
"""of the pixels of images"""

ROWS: Literal[0] = 0
COLS: Literal[1] = 1

_FIRST = 2  # axis of images that is of pixels
_RANK = 4  # of images: tiles, channels, rows, columns; those whose channels are split have one more
_OF_CHANNELS = {
    "Concat",
    "Gather",
    "ReduceMax",
    "ReduceSum",
    "Softmax",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "VariadicSplit",
}
_CONVOLUTIONS = {"Convolution", "GroupConvolution", "MaxPool"}
_LOOKING_AROUND = {*_CONVOLUTIONS, "ConvolutionBackpropData", "Pad"}
_TO_THE_END = np.iinfo(np.int64).max
_ALL = slice(None)


class Place(NamedTuple):
    """A block along an axis, in pixels of the inputs of the whole part.

    Attributes:
        first: of the block.
        begin: of what is kept of it.
        end: of that.
    """

    first: int
    begin: int
    end: int


@dataclass(frozen=True)
class Cuts:
    """How a part is cut along an axis.

    Attributes:
        length: of the inputs of a block, pixels.
        places: of the blocks.
        ratios: pixels of each result to those of the inputs.
        kept: first pixel of each result of the whole part that is kept, and the one after the last.
    """

    length: int
    places: tuple[Place, ...]
    ratios: tuple[Fraction, ...]
    kept: tuple[tuple[int, int], ...]

    def taken(self, place: Place) -> slice:
        """Where a block's inputs lie in those of the whole part."""
        return slice(place.first, place.first + self.length)

    def room(self, index: int) -> int:
        """Pixels that all blocks together give of a result, with those at both ends that are not kept."""
        return int((self.places[-1].end - self.places[0].begin) * self.ratios[index])

    def right(self, place: Place, index: int) -> slice:
        """Of a block's result what is right."""
        ratio = self.ratios[index]
        return slice(int((place.begin - place.first) * ratio), int((place.end - place.first) * ratio))

    def given(self, place: Place, index: int) -> slice:
        """Where that belongs in the result of all blocks."""
        ratio, begin = self.ratios[index], self.places[0].begin
        return slice(int((place.begin - begin) * ratio), int((place.end - begin) * ratio))

    def keep(self, index: int) -> slice:
        """What is kept of a result of all blocks."""
        low, high = self.kept[index]
        begin = int(self.places[0].begin * self.ratios[index])
        return slice(low - begin, high - begin)


_Spot: TypeAlias = tuple[Place, Place | None]
_Region: TypeAlias = tuple[slice, slice]


@dataclass(frozen=True)
class Blocks:
    """How a part is cut into blocks.

    Attributes:
        rows: how along rows.
        cols: how along columns; ``None`` for blocks as wide as the part.
    """

    rows: Cuts
    cols: Cuts | None

    def __iter__(self) -> Iterator[_Spot]:
        return product(self.rows.places, self.cols.places if self.cols else (None,))

    def taken(self, spot: _Spot) -> _Region:
        """Where a block's inputs lie in those of the whole part, rows and columns."""
        row, col = spot
        return self.rows.taken(row), self.cols.taken(col) if self.cols and col else _ALL

    def right(self, spot: _Spot, index: int) -> _Region:
        """Of a block's result what is right."""
        row, col = spot
        return self.rows.right(row, index), self.cols.right(col, index) if self.cols and col else _ALL

    def given(self, spot: _Spot, index: int) -> _Region:
        """Where that belongs in the result of all blocks."""
        row, col = spot
        return self.rows.given(row, index), self.cols.given(col, index) if self.cols and col else _ALL

    def keep(self, index: int) -> _Region:
        """What is kept of a result of all blocks."""
        return self.rows.keep(index), self.cols.keep(index) if self.cols else _ALL

    def room(self, index: int) -> tuple[int, int | None]:
        """Rows and columns of a result of all blocks; ``None`` for those of one block."""
        return self.rows.room(index), self.cols.room(index) if self.cols else None


class _Reach(NamedTuple):
    """Along an axis, pixels of an image to those of the inputs, and how many of its own at each end are not right."""

    axis: Axis
    ratio: Fraction
    margin: int


def find_cuts(
    model: Any, axis: Axis, size: int, wanted: int, crop: tuple[Fraction, Fraction] | None = None
) -> Cuts | None:
    """Cuts of a part of a network along an axis.

    Args:
        model: all of whose inputs have so many pixels along the axis.
        axis: of images.
        size: that many.
        wanted: pixels of a block, about.
        crop: from where to where they are kept, as shares of the size of every result, which all come of what was
            cropped; ``None`` for all.

    Returns:
        the cuts; ``None`` where a value depends on pixels that are far away, and where there would be one block.
    """
    reaches = _reaches(model, axis)
    if reaches is None:
        return None
    step = math.lcm(*(reach.ratio.denominator for reach in reaches.values()))
    found = [reaches[name] for name in _results(model)]
    margin = -(-max(math.ceil(reach.margin / reach.ratio) for reach in found) // step) * step
    shares = crop or (Fraction(0), Fraction(1))
    kept = tuple((int(shares[0] * size * reach.ratio), int(shares[1] * size * reach.ratio)) for reach in found)
    low = min(math.floor(ends[0] / reach.ratio) for ends, reach in zip(kept, found, strict=True))
    high = max(math.ceil(ends[1] / reach.ratio) for ends, reach in zip(kept, found, strict=True))
    begin, end = max(0, low // step * step - margin), min(size, -(-high // step) * step + margin)
    inner = end - begin - 2 * margin
    count = round(inner / max(step, wanted - 2 * margin))
    if count < 2 or size % step:
        return None
    own = -(-inner // (count * step)) * step
    count = -(-inner // own)
    places, done = [], begin
    for index in range(count):
        first = min(begin + index * own, end - own - 2 * margin)
        to = end if index == count - 1 else first + margin + own
        places.append(Place(first, done, to))
        done = to
    return Cuts(own + 2 * margin, tuple(places), tuple(reach.ratio for reach in found), kept)


def free_crop(openvino: Any, model: Any, axis: Axis) -> tuple[Fraction, Fraction] | None:
    """Takes the crop along an axis out of a part, and lets what splits channels do so for any number of rows.

    Args:
        openvino: the package.
        model: it is changed; the crop stays if there is more than one, or if not all that follows is alike with it.
        axis: of images.

    Returns:
        from where to where it cropped, as shares of the size of its image; ``None`` where there is not one crop.
    """
    ordered = model.get_ordered_ops()
    for node in ordered:
        if axis == ROWS and node.get_type_name() == "Reshape" and _splits_channels(node):
            shape = shape_of(node.output(0))
            shape[axis - 2] = -1
            node.input(1).replace_source_output(openvino.opset13.constant(np.array(shape, np.int64)).output(0))
    crops = [node for node in ordered if _is_crop_along(node, axis)]
    if len(crops) != 1 or len(values_of(crops[0], 4)) != 1 or int(values_of(crops[0], 3)[0]) != 1:
        return None
    after = following(ordered, {name_of(crops[0])})
    looking_around = {name_of(node) for node in ordered if node.get_type_name() in _LOOKING_AROUND}
    if after & looking_around or not {name_of(result) for result in model.get_results()} <= after:
        return None  # what follows would see what was cropped; or is cropped in some results alone
    size = _side(crops[0].input(0).get_source_output(), axis)
    begin, end = (int(values_of(crops[0], index)[0]) for index in (1, 2))
    found = (
        Fraction(begin % size if begin < 0 else begin, size),
        Fraction(end % size if end < 0 else min(end, size), size),
    )
    for index, place in ((1, 0), (2, _TO_THE_END)):
        constant = openvino.opset13.constant(np.array([place], np.int64))
        crops[0].input(index).replace_source_output(constant.output(0))
    return found


def _results(model: Any) -> list[str]:
    """Names of the nodes that results are of."""
    return [name_of(result.input(0).get_source_output().get_node()) for result in model.get_results()]


def _side(output: Any, axis: Axis) -> int:
    """Pixels of an image along an axis."""
    return shape_of(output)[axis - 2]


_Reaches: TypeAlias = dict[str, _Reach]


def _reaches(model: Any, axis: Axis) -> _Reaches | None:
    """Of each node that gives an image; ``None`` where one does something else than look around itself."""
    found: _Reaches = {}
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), name_of(node)
        sources = [entry.get_source_output().get_node() for entry in node.inputs()]
        images = [found[name_of(source)] for source in sources if name_of(source) in found]
        if kind == "Parameter":
            found[name] = _Reach(axis, Fraction(1), 0)
        elif images and kind != "Result":
            reach = _reach(node, kind, images)
            if reach is None:
                return None
            found[name] = reach
    return found


def _reach(node: Any, kind: str, images: Sequence[_Reach]) -> _Reach | None:
    """Of a node by those of the images that it reads; ``None`` for one that does something else."""
    if kind not in _OF_KINDS or any(image.ratio != images[0].ratio for image in images):
        return None
    return _OF_KINDS[kind](node, images[0]._replace(margin=max(image.margin for image in images)))


def _of_pixels(node: Any, image: _Reach) -> _Reach | None:
    return image if all(_is_for_all_pixels(entry.get_source_output(), image.axis) for entry in node.inputs()) else None


def _of_first(node: Any, image: _Reach) -> _Reach | None:  # noqa: ARG001
    return image


def _of_channels(node: Any, image: _Reach) -> _Reach | None:
    """In images the second axis is that of channels; in what is left of them when they have none, that of rows."""
    images = node.output(0) if node.get_type_name() == "Unsqueeze" else node.input(0).get_source_output()
    of_channels = _axes(node) == {1} and len(shape_of(images)) >= _RANK
    return _of_pixels(node, image) if of_channels else None


def _of_reshape(node: Any, image: _Reach) -> _Reach | None:
    """One size alone may be left to be found."""
    return image if image.axis == ROWS and _splits_channels(node) else None


def _of_squares(node: Any, image: _Reach) -> _Reach | None:
    """Of channels that become pixels beside each other."""
    size = node.get_attributes()["block_size"]
    return image._replace(ratio=image.ratio * size, margin=image.margin * size)


def _of_transpose(node: Any, image: _Reach) -> _Reach | None:
    """Where parts begin and end; in between, pixels would no longer be where they are looked for."""
    if tuple(values_of(node, 1)) not in {CHANNELS_LAST, CHANNELS_FIRST}:
        return None
    sources = [node.input(0).get_source_output().get_node()]
    readers = [entry.get_node() for entry in node.output(0).get_target_inputs()]
    for nodes, ends in ((sources, "Parameter"), (readers, "Result")):
        if all(_leads_to(one, ends) for one in nodes):
            return image
    return None


def _leads_to(node: Any, kind: str) -> bool:
    """Whether a node is of a kind, or but a conversion away from one."""
    if node.get_type_name() != "Convert":
        return bool(node.get_type_name() == kind)
    ports = node.inputs() if kind == "Parameter" else node.output(0).get_target_inputs()
    others = [port.get_source_output().get_node() if kind == "Parameter" else port.get_node() for port in ports]
    return all(other.get_type_name() == kind for other in others)


def _of_crop(node: Any, image: _Reach) -> _Reach | None:
    return None if _is_crop_along(node, image.axis) and not _is_free(node) else image


def _is_crop_along(node: Any, axis: Axis) -> bool:
    if node.get_type_name() != "Slice":
        return False
    rank = len(shape_of(node.input(0).get_source_output()))
    return axis - 2 in {int(one) % rank - rank for one in values_of(node, 4)}


def _of_pad(node: Any, image: _Reach) -> _Reach | None:
    """What it adds counts where it is read."""
    readers = (entry.get_node() for entry in node.output(0).get_target_inputs())
    return image if all(reader.get_type_name() in _CONVOLUTIONS for reader in readers) else None


def _of_convolution(node: Any, image: _Reach) -> _Reach | None:
    facts, axis = node.get_attributes(), image.axis
    pools = node.get_type_name() == "MaxPool"
    long = facts["kernel"][axis] if pools else _side(node.input(1).get_source_output(), axis)
    span = (facts.get("dilations") or [1, 1])[axis] * (long - 1)
    stride, before = facts["strides"][axis], facts["pads_begin"][axis]
    source = node.input(0).get_source_output()
    if source.get_node().get_type_name() == "Pad":
        before += int(values_of(source.get_node(), 1)[_FIRST + axis])
        source = source.get_node().input(0).get_source_output()
    if _side(source, axis) != stride * _side(node.output(0), axis):
        return None
    margin = -(-(image.margin + max(before, span - before)) // stride)
    return image._replace(ratio=image.ratio / stride, margin=margin)


def _of_transposed(node: Any, image: _Reach) -> _Reach | None:
    axis = image.axis
    small, large = (_side(output, axis) for output in (node.input(0).get_source_output(), node.output(0)))
    facts, long = node.get_attributes(), _side(node.input(1).get_source_output(), axis)
    stride, before = facts["strides"][axis], facts["pads_begin"][axis]
    if node.get_input_size() != 2 or large != stride * small or facts["dilations"][axis] != 1:
        return None
    margin = stride * image.margin + max(long - 1 - before, before)
    return image._replace(ratio=image.ratio * stride, margin=margin)


_OF_KINDS: dict[str, Callable[[Any, _Reach], _Reach | None]] = {
    **dict.fromkeys(POINTWISE, _of_pixels),
    **dict.fromkeys(_OF_CHANNELS, _of_channels),
    **dict.fromkeys(_CONVOLUTIONS, _of_convolution),
    "BatchNormInference": _of_first,
    "ConvolutionBackpropData": _of_transposed,
    "DepthToSpace": _of_squares,
    "Pad": _of_pad,
    "Reshape": _of_reshape,
    "Slice": _of_crop,
    "Transpose": _of_transpose,
}


def _splits_channels(node: Any) -> bool:
    """Whether an image is reshaped to one more axis, its channels to two; or back."""
    before, after = shape_of(node.input(0).get_source_output()), shape_of(node.output(0))
    ranks = {len(before), len(after)}
    return ranks == {_RANK, _RANK + 1} and before[0] == after[0] and before[-2:] == after[-2:]


def _is_free(node: Any) -> bool:
    """Whether a slice takes all there is, however much that is."""
    begin, end, steps = (values_of(node, index) for index in (1, 2, 3))
    return bool((begin == 0).all() and (end == _TO_THE_END).all() and (steps == 1).all())


def _axes(node: Any) -> set[int]:
    """Along which a node of channels works."""
    kind = node.get_type_name()
    if kind in {"Concat", "Softmax"}:
        return {int(node.get_attributes()["axis"])}
    constant = node.input(2 if kind == "Gather" else 1).get_source_output().get_node()
    return {int(axis) for axis in constant.get_data().flatten()} if constant.get_type_name() == "Constant" else set()


def _is_for_all_pixels(output: Any, axis: Axis) -> bool:
    """Whether it is an image of the block, or something that is the same for all pixels along an axis."""
    if output.get_node().get_type_name() != "Constant":
        return True
    shape = shape_of(output)
    return len(shape) < 2 - axis or shape[axis - 2] == 1
