"""Parts of networks that are computed in strips of rows, so that caches hold what they make (floor 3).

The layers near the image make the largest images of all, which no cache holds; one after the other over the whole tile
they wait for memory. In strips they need not. A strip is as much larger than what is kept of it as these layers reach,
so that every value that is kept is what it would be without strips (M. Alwani et al., *Fused-layer CNN accelerators*,
2016, https://doi.org/10.1109/MICRO.2016.7783725).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.models.nodes import POINTWISE, name_of, shape_of, values_of

__all__ = ["Place", "Strips", "find_strips", "free_rows"]

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
_TO_THE_END = np.iinfo(np.int64).max


class Place(NamedTuple):
    """A strip, in rows of the inputs of the whole part.

    Attributes:
        first: of the strip.
        begin: of what is kept of it.
        end: of that.
    """

    first: int
    begin: int
    end: int


@dataclass(frozen=True)
class Strips:
    """How a part is cut.

    Attributes:
        rows: of the inputs of a strip.
        places: of the strips.
        ratios: rows of each result to those of the inputs.
        kept: first row of each result of the whole part that is kept, and the one after the last.
    """

    rows: int
    places: tuple[Place, ...]
    ratios: tuple[Fraction, ...]
    kept: tuple[tuple[int, int], ...]

    def take(self, place: Place, whole: NDArray[Any], axis: int) -> NDArray[Any]:
        """A strip of an input; ``axis`` is that of rows."""
        return _cut(whole, axis, place.first, place.first + self.rows)

    def length(self, index: int) -> int:
        """Rows that all strips together give of a result, with those at both ends that are not kept."""
        return int((self.places[-1].first + self.rows - self.places[0].first) * self.ratios[index])

    def give(self, place: Place, index: int, whole: NDArray[Any], axis: int) -> NDArray[Any]:
        """The rows of a result of all strips that one of them gives."""
        ratio = self.ratios[index]
        begin = int((place.first - self.places[0].first) * ratio)
        return _cut(whole, axis, begin, begin + int(self.rows * ratio))

    def right(self, place: Place, index: int, given: NDArray[Any], axis: int) -> NDArray[Any]:
        """Of these rows the ones that the strip before has right, and this one not."""
        return _cut(given, axis, 0, int((place.begin - place.first) * self.ratios[index]))

    def keep(self, index: int, whole: NDArray[Any], axis: int) -> NDArray[Any]:
        """What is kept of a result of all strips."""
        low, high = self.kept[index]
        begin = int(self.places[0].first * self.ratios[index])
        return _cut(whole, axis, low - begin, high - begin)


def _cut(array: NDArray[Any], axis: int, begin: int, end: int) -> NDArray[Any]:
    """Some rows of an array."""
    return array[(*(slice(None),) * (axis % array.ndim), slice(begin, end))]


class _Reach(NamedTuple):
    """Rows of an image to those of the inputs, and how many of its rows at each end of a strip are not right."""

    ratio: Fraction
    margin: int


def find_strips(model: Any, height: int, wanted: int, crop: tuple[Fraction, Fraction] | None = None) -> Strips | None:
    """Strips for a part of a network.

    Args:
        model: all of whose inputs have so many rows.
        height: that many.
        wanted: rows of a strip, about.
        crop: from where to where rows are kept, as shares of the height of every result, which all come of what was
            cropped; ``None`` for all.

    Returns:
        the strips; ``None`` where a value depends on rows that are far away, and where there would be one strip.
    """
    reaches = _reaches(model)
    if reaches is None:
        return None
    step = math.lcm(*(reach.ratio.denominator for reach in reaches.values()))
    found = [reaches[name_of(result.input(0).get_source_output().get_node())] for result in model.get_results()]
    margin = -(-max(math.ceil(reach.margin / reach.ratio) for reach in found) // step) * step
    shares = crop or (Fraction(0), Fraction(1))
    kept = tuple((int(shares[0] * height * reach.ratio), int(shares[1] * height * reach.ratio)) for reach in found)
    low = min(math.floor(rows[0] / reach.ratio) for rows, reach in zip(kept, found, strict=True))
    high = max(math.ceil(rows[1] / reach.ratio) for rows, reach in zip(kept, found, strict=True))
    begin, end = max(0, low // step * step - margin), min(height, -(-high // step) * step + margin)
    inner = end - begin - 2 * margin
    count = round(inner / max(step, wanted - 2 * margin))
    if count < 2 or height % step:
        return None
    own = -(-inner // (count * step)) * step
    count = -(-inner // own)
    places, done = [], begin
    for index in range(count):
        first = min(begin + index * own, end - own - 2 * margin)
        to = end if index == count - 1 else first + margin + own
        places.append(Place(first, done, to))
        done = to
    return Strips(own + 2 * margin, tuple(places), tuple(reach.ratio for reach in found), kept)


def free_rows(openvino: Any, model: Any) -> tuple[Fraction, Fraction] | None:
    """Takes the crop of rows out of a part, and lets what splits channels do so for any number of rows.

    Args:
        openvino: the package.
        model: it is changed; the crop stays if there is more than one.

    Returns:
        from where to where it cropped, as shares of the height of its image; ``None`` where there is not one crop.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Reshape" and _splits_channels(node):
            shape = shape_of(node.output(0))
            shape[-2] = -1
            node.input(1).replace_source_output(openvino.opset13.constant(np.array(shape, np.int64)).output(0))
    crops = [node for node in model.get_ordered_ops() if node.get_type_name() == "Slice" and 2 in values_of(node, 4)]
    if len(crops) != 1 or list(values_of(crops[0], 4)) != [2]:
        return None
    rows = shape_of(crops[0].input(0).get_source_output())[-2]
    found = Fraction(int(values_of(crops[0], 1)[0]), rows), Fraction(int(values_of(crops[0], 2)[0]), rows)
    for index, place in ((1, 0), (2, _TO_THE_END)):
        constant = openvino.opset13.constant(np.array([place], np.int64))
        crops[0].input(index).replace_source_output(constant.output(0))
    return found


_Reaches: TypeAlias = dict[str, _Reach]


def _reaches(model: Any) -> _Reaches | None:
    """Of each node that gives an image; ``None`` where one does something else than look around itself."""
    found: _Reaches = {}
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), name_of(node)
        sources = [entry.get_source_output().get_node() for entry in node.inputs()]
        images = [found[name_of(source)] for source in sources if name_of(source) in found]
        if kind == "Parameter":
            found[name] = _Reach(Fraction(1), 0)
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
    return _OF_KINDS[kind](node, _Reach(images[0].ratio, max(image.margin for image in images)))


def _of_pixels(node: Any, image: _Reach) -> _Reach | None:
    return image if all(_is_for_all_rows(entry.get_source_output()) for entry in node.inputs()) else None


def _of_first(node: Any, image: _Reach) -> _Reach | None:  # noqa: ARG001
    return image


def _of_channels(node: Any, image: _Reach) -> _Reach | None:
    """In images the second axis is that of channels; in what is left of them when they have none, that of rows."""
    images = node.output(0) if node.get_type_name() == "Unsqueeze" else node.input(0).get_source_output()
    return image if _axes(node) == {1} and len(shape_of(images)) >= _RANK else None


def _of_reshape(node: Any, image: _Reach) -> _Reach | None:
    return image if _splits_channels(node) else None


def _of_squares(node: Any, image: _Reach) -> _Reach | None:
    """Of channels that become pixels beside each other."""
    size = node.get_attributes()["block_size"]
    return _Reach(image.ratio * size, image.margin * size)


def _of_transpose(node: Any, image: _Reach) -> _Reach | None:
    """Where parts begin and end; in between, rows would no longer be where they are looked for."""
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
    return None if 2 in values_of(node, 4) and not _is_free(node) else image


def _of_pad(node: Any, image: _Reach) -> _Reach | None:
    """What it adds counts where it is read."""
    readers = (entry.get_node() for entry in node.output(0).get_target_inputs())
    return image if all(reader.get_type_name() in _CONVOLUTIONS for reader in readers) else None


def _of_convolution(node: Any, image: _Reach) -> _Reach | None:
    facts = node.get_attributes()
    pools = node.get_type_name() == "MaxPool"
    long = facts["kernel"][0] if pools else shape_of(node.input(1).get_source_output())[-2]
    span = (facts.get("dilations") or [1])[0] * (long - 1)
    stride, before = facts["strides"][0], facts["pads_begin"][0]
    source = node.input(0).get_source_output()
    if source.get_node().get_type_name() == "Pad":
        before += int(values_of(source.get_node(), 1)[2])
        source = source.get_node().input(0).get_source_output()
    if shape_of(source)[-2] != stride * shape_of(node.output(0))[-2]:
        return None
    return _Reach(image.ratio / stride, -(-(image.margin + max(before, span - before)) // stride))


def _of_transposed(node: Any, image: _Reach) -> _Reach | None:
    small, large = (shape_of(output)[-2] for output in (node.input(0).get_source_output(), node.output(0)))
    facts, long = node.get_attributes(), shape_of(node.input(1).get_source_output())[-2]
    stride, before = facts["strides"][0], facts["pads_begin"][0]
    if node.get_input_size() != 2 or large != stride * small or facts["dilations"][0] != 1:
        return None
    return _Reach(image.ratio * stride, stride * image.margin + max(long - 1 - before, before))


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
    return int(values_of(node, 1)[0]) == 0 and int(values_of(node, 2)[0]) == _TO_THE_END


def _axes(node: Any) -> set[int]:
    """Along which a node of channels works."""
    kind = node.get_type_name()
    if kind in {"Concat", "Softmax"}:
        return {int(node.get_attributes()["axis"])}
    constant = node.input(2 if kind == "Gather" else 1).get_source_output().get_node()
    return {int(axis) for axis in constant.get_data().flatten()} if constant.get_type_name() == "Constant" else set()


def _is_for_all_rows(output: Any) -> bool:
    """Whether it is an image of the strip, or something that is the same for all rows."""
    if output.get_node().get_type_name() != "Constant":
        return True
    shape = shape_of(output)
    return len(shape) < 2 or shape[-2] == 1
