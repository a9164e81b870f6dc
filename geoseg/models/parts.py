"""Networks in the parts in which OpenVINO computes them, one after the other (floor 3).

Of a network in bf16 the first convolutions stay fp32, see :mod:`geoseg.models.rounding`. The layers near the image, at
the beginning and at the end, are computed in blocks where that can be and pays, see :mod:`geoseg.models.blocks`. What
rounds to integers stays with those who multiply them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from geoseg.models.blocks import COLS, ROWS, Axis, Blocks, Cuts, find_cuts, free_crop
from geoseg.models.graphs import EXACT
from geoseg.models.nodes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    UPSAMPLING,
    following,
    is_crop,
    name_of,
    shape_of,
    values_of,
)

__all__ = ["PIXELS", "PIXELS_BETWEEN", "Hint", "InBlocks", "Part", "cut_network"]

Hint: TypeAlias = Literal["f32", "bf16"]
"""OpenVINO's name of the arithmetic of floating-point numbers"""

InBlocks: TypeAlias = Literal["nothing", "beginning", "both ends"]
"""which layers near the image are computed in blocks, if they can be"""

PIXELS = -2
"""first of the axes of rows and columns in tiles and results"""

PIXELS_BETWEEN = 1
"""the same in what parts hand over"""

_DEEP = 4  # how much smaller images are where layers are no longer computed in blocks
_FURTHER = 3  # convolutions, of which one may hand over less than the first that gives so small an image
_READING = {"Convert", "Slice", "Transpose"}  # kinds of nodes that make an image of what was handed over


class Part(NamedTuple):
    """Some layers of a network. What they take of others and give to them is known by its friendly name.

    Attributes:
        model: of them; of a block, where they are computed in blocks.
        hint: of their arithmetic, where they do not multiply integers.
        blocks: where they lie.
    """

    model: Any
    hint: Hint
    blocks: Blocks | None = None


def cut_network(
    openvino: Any, model: Any, hint: Hint, in_blocks: InBlocks = "nothing", block: tuple[int, int] = (0, 0)
) -> list[Part]:
    """Cuts a network into parts.

    Args:
        openvino: the package.
        model: of a fixed shape, without operations on shapes, whose convolutions see images; it is left as it is.
        hint: of its arithmetic.
        in_blocks: which layers are.
        block: rows and columns of a tile in a block, about.
    """
    batch, _, height, width = shape_of(model.input(0))
    parts: list[Part] = []
    if hint == "bf16":
        first, model = _split(openvino, model, _first_convolutions, hint)
        parts = [Part(first, "f32")] if first is not None else []
    if in_blocks == "nothing" or batch > 1:
        return [*parts, Part(model, hint)]
    shares = Fraction(block[0], height), Fraction(block[1], width)
    parts = [_in_blocks(openvino, part, shares, first=True) for part in parts]
    begin, rest = _split(openvino, model, lambda whole: _shallow(whole, height), hint)
    if begin is not None:
        part = _in_blocks(openvino, Part(begin, hint), shares, first=not parts)
        if part.blocks is not None:
            parts, model = [*parts, part], rest
    if in_blocks == "both ends":
        begin, rest = _split(openvino, model, _before_last_upsampling, hint)
        if begin is not None:
            last = _in_blocks(openvino, Part(rest, hint), shares, first=False)
            if last.blocks is not None:
                return [*parts, Part(begin, hint), last]
    return [*parts, Part(model, hint)]


def _in_blocks(openvino: Any, part: Part, shares: tuple[Fraction, Fraction], *, first: bool) -> Part:
    """The same part in blocks, if that can be: of fewer rows, and where that can be as well, of fewer columns.

    Args:
        openvino: the package.
        part: of a network.
        shares: of the height and the width that a block has, about.
        first: whether that is the part's.
    """
    model, rows = _cut_along(openvino, part.model, ROWS, shares[ROWS], first=first)
    if rows is None:
        return part
    model, cols = _cut_along(openvino, model, COLS, shares[COLS], first=first)
    return Part(model, part.hint, Blocks(rows, cols))


def _cut_along(openvino: Any, model: Any, axis: Axis, share: Fraction, *, first: bool) -> tuple[Any, Cuts | None]:
    """A part that is cut along an axis, if it can be, and how."""
    cut = model.clone()
    place = axis + (PIXELS if first else PIXELS_BETWEEN)
    shapes = {entry: shape_of(entry) for entry in cut.inputs}
    sizes = {shape[place] for shape in shapes.values()}
    if len(sizes) != 1:
        return model, None
    [own] = sizes
    cuts = find_cuts(cut, axis, own, int(own * share), free_crop(openvino, cut, axis))
    if cuts is None:
        return model, None
    for shape in shapes.values():
        shape[place] = cuts.length
    try:
        cut.reshape(shapes)
    except RuntimeError:  # something holds for one size alone
        return model, None
    return cut, cuts


def _first_convolutions(model: Any) -> set[str]:
    """Names of a model's nodes up to those convolutions that stay exact; of none where there are no others."""
    ordered, numbers = _numbered(model)
    if not numbers or numbers[-1] <= EXACT:
        return set()
    first = {name_of(node) for node, number in zip(ordered, numbers, strict=True) if number <= EXACT}
    return first - _rounding_for_others(ordered, first)


def _shallow(model: Any, height: int) -> set[str]:
    """Names of the nodes near the image: up to where images are a quarter of its height, and little is handed over."""
    ordered, numbers = _numbered(model)
    sides = [_height(node) for node in ordered]
    reached = [number for number, side in zip(numbers, sides, strict=True) if number and 0 < _DEEP * side <= height]
    if not reached:
        return set()
    crops = following(ordered, {name_of(node) for node in ordered if node.get_type_name() == "Slice"})
    found = []
    for count in range(reached[0], min(reached[0] + _FURTHER, numbers[-1])):
        names = {name_of(node) for node, number in zip(ordered, numbers, strict=True) if number <= count} - crops
        names -= _rounding_for_others(ordered, names)
        size = sum(int(np.prod(shape_of(output))) for output, _ in _handed_over(ordered, names))
        if names:
            found.append((size, names))
    return min(found, key=lambda one: one[0])[1] if found else set()


def _before_last_upsampling(model: Any) -> set[str]:
    """Names of all nodes but the last that enlarges images and what comes of it."""
    ordered, _ = _numbered(model)
    last = [name_of(node) for node in ordered if node.get_type_name() in UPSAMPLING][-1:]
    before = {name_of(node) for node in ordered} - following(ordered, set(last)) if last else set()
    return before - _rounding_for_others(ordered, before)


def _numbered(model: Any) -> tuple[list[Any], list[int]]:
    """A model's nodes that depend on its inputs, each with the number of convolutions up to it."""
    everything = model.get_ordered_ops()
    names = following(everything, {name_of(node) for node in model.get_parameters()})
    ordered = [node for node in everything if name_of(node) in names]
    return ordered, list(accumulate(node.get_type_name().endswith("Convolution") for node in ordered))


def _rounding_for_others(ordered: Sequence[Any], names: set[str]) -> set[str]:
    """Of these nodes those that round to integers for convolutions that are not of them; and all that comes after."""
    found = set()
    for node in ordered:
        if node.get_type_name() == "FakeQuantize" and not _convolutions_after(node) <= names:
            smoothed = node.input(0).get_source_output().get_node()
            found |= {name_of(one) for one in (node, smoothed) if one is node or one.get_type_name() == "Multiply"}
    return following(ordered, found)


def _convolutions_after(node: Any) -> set[str]:
    """Names of the next convolutions, of any kind, that read what comes of a node."""
    found: set[str] = set()
    seen: set[str] = set()
    nodes = [node]
    while nodes:
        readers = [entry.get_node() for output in nodes.pop().outputs() for entry in output.get_target_inputs()]
        for reader in readers:
            if "Convolution" in reader.get_type_name():
                found.add(name_of(reader))
            elif name_of(reader) not in seen:
                seen.add(name_of(reader))
                nodes.append(reader)
    return found


def _handed_over(ordered: Sequence[Any], first: set[str]) -> list[tuple[Any, list[Any]]]:
    """What other nodes read of the first ones', and where they do."""
    found = []
    for output in (output for node in ordered if name_of(node) in first for output in node.outputs()):
        readers = [entry for entry in output.get_target_inputs() if name_of(entry.get_node()) not in first]
        if readers:
            found.append((output, readers))
    return found


def _height(node: Any) -> int:
    """Rows of the image that a node gives; 0 if it is none."""
    shape = shape_of(node.output(0)) if node.get_output_size() else []
    return shape[PIXELS] if len(shape) == len(CHANNELS_LAST) else 0


def _split(openvino: Any, model: Any, choose: Callable[[Any], set[str]], kind: Hint) -> tuple[Any, Any]:
    """Cuts a model in two, of which the second takes what of the first's results it uses.

    What it reads of what was handed to the first it takes itself.

    Args:
        openvino: the package.
        model: of a fixed shape, without operations on shapes; it is left as it is.
        choose: names of the nodes of a model that go to the first, with all that they read.
        kind: of the numbers that are handed over.

    Returns:
        the two; ``None`` and the model itself where there is nothing to hand over, or something that is no image.
    """
    second = model.clone()
    first = choose(second)
    operations, narrow_kind = openvino.opset13, getattr(openvino.Type, kind)
    ordered, _ = _numbered(second)
    taken_over = _taken_over(ordered)
    handed = [one for one in _handed_over(ordered, first) if name_of(one[0].get_node()) not in taken_over]
    if not handed or any(len(shape_of(output)) != len(CHANNELS_LAST) for output, _ in handed):
        return None, model
    results, taken = [], []
    for output, readers in handed:
        # channels last and narrow, as convolutions keep them: to hand them over otherwise takes as long as to make them
        given = operations.convert(operations.transpose(output, np.array(CHANNELS_LAST)), kind)
        results.append(operations.result(given))
        taken.append(operations.parameter(shape_of(given.output(0)), narrow_kind))
        for node in (results[-1], taken[-1]):
            node.set_friendly_name(f"{name_of(output.get_node())}, handed over")
        for source, inputs in _crops_first(operations, taken[-1], readers):
            found = operations.transpose(operations.convert(source, "f32"), np.array(CHANNELS_FIRST))
            for entry in inputs:
                entry.replace_source_output(found.output(0))
    begin = openvino.Model(results, second.get_parameters(), "first").clone()
    second.add_parameters(taken)
    for part in (begin, second):
        _drop_unread(part)
    return begin, second


def _crops_first(operations: Any, taken: Any, readers: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
    """What was handed over, cropped for those who read crops of it, and as it is for the others, with who reads them.

    To turn an image for one reader costs OpenVINO nothing. For several it does so, and each turns it back.
    """
    found: list[tuple[Any, list[Any]]] = []
    others = []
    for reader in readers:
        node = reader.get_node()
        crops = node.get_type_name() == "Slice" and is_crop(node)
        if crops and len(values_of(node, 4)) == 2:  # of one axis alone, rows could not be told from columns later
            begin, end, steps, axes = (values_of(node, index) for index in range(1, 5))
            inputs = list(node.output(0).get_target_inputs())
            found.append((operations.slice(taken, begin, end, steps, axes - 1), inputs))
        else:
            others.append(reader)
    return [*found, (taken, others)] if others else found


def _taken_over(ordered: Sequence[Any]) -> set[str]:
    """Names of the nodes that only make an image of what was handed over."""
    found: set[str] = set()
    for node in ordered:
        kind, sources = node.get_type_name(), [name_of(entry.get_source_output().get_node()) for entry in node.inputs()]
        if kind == "Parameter" or (kind in _READING and sources[0] in found):
            found.add(name_of(node))
    return found


def _drop_unread(model: Any) -> None:
    """Takes away a model's inputs that none of its results depends on."""
    read: set[str] = set()
    nodes = list(model.get_results())
    while nodes:
        node = nodes.pop()
        if name_of(node) not in read:
            read.add(name_of(node))
            nodes += [entry.get_source_output().get_node() for entry in node.inputs()]
    for parameter in model.get_parameters():
        if name_of(parameter) not in read:
            model.remove_parameter(parameter)
