"""Parts of networks as OpenVINO compiled them for one CPU, as bytes that can be kept (floor 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from geoseg.models.blocks import Blocks, Cuts, Place
from geoseg.models.parts import Hint, Part

__all__ = ["CompiledPart", "compile_part", "pack", "unpack"]


class CompiledPart(NamedTuple):
    """Some layers of a network, ready to be asked.

    Attributes:
        network: OpenVINO's.
        hint: of its arithmetic, see :class:`geoseg.models.parts.Part`.
        takes: names of its inputs.
        gives: names of its results.
        blocks: where those lie in which it is computed, if it is.
    """

    network: Any
    hint: Hint
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    blocks: Blocks | None


def compile_part(core: Any, part: Part, settings: Mapping[str, Any]) -> CompiledPart:
    """Compiles a part for the CPU.

    Args:
        core: OpenVINO's.
        part: of a network.
        settings: of OpenVINO, for all parts.
    """
    takes = tuple(parameter.get_friendly_name() for parameter in part.model.get_parameters())
    gives = tuple(result.get_friendly_name() for result in part.model.get_results())
    network = core.compile_model(part.model, "CPU", {**settings, **_of_arithmetic(part.hint)})
    return CompiledPart(network, part.hint, takes, gives, part.blocks)


def pack(parts: Sequence[CompiledPart]) -> bytes:
    """Compiled parts as bytes: a line of JSON for all, then what OpenVINO makes of each."""
    contents = [bytes(part.network.export_model().getbuffer()) for part in parts]
    facts = [
        [len(content), part.hint, part.takes, part.gives, _blocks_to_facts(part.blocks)]
        for part, content in zip(parts, contents, strict=True)
    ]
    return b"\n".join([json.dumps(facts).encode(), b"".join(contents)])


def unpack(core: Any, packed: bytes, settings: Mapping[str, Any]) -> list[CompiledPart]:
    """Undoes :func:`pack`, on the same kind of CPU and in the same version of OpenVINO.

    Raises:
        RuntimeError: OpenVINO does not take what it gave.
    """
    line, _, contents = packed.partition(b"\n")
    found, begin = [], 0
    for length, hint, takes, gives, blocks in json.loads(line):
        content = contents[begin : begin + length]
        network = core.import_model(content, "CPU", {**settings, **_of_arithmetic(hint)})
        found.append(CompiledPart(network, hint, tuple(takes), tuple(gives), _blocks_of_facts(blocks)))
        begin += length
    return found


def _of_arithmetic(hint: Hint) -> dict[str, str]:
    return {"INFERENCE_PRECISION_HINT": hint}


def _blocks_to_facts(blocks: Blocks | None) -> list[Any] | None:
    return None if blocks is None else [_cuts_to_facts(blocks.rows), _cuts_to_facts(blocks.cols)]


def _blocks_of_facts(facts: list[Any] | None) -> Blocks | None:
    if facts is None:
        return None
    rows, cols = map(_cuts_of_facts, facts)
    return None if rows is None else Blocks(rows, cols)


def _cuts_to_facts(cuts: Cuts | None) -> list[Any] | None:
    if cuts is None:
        return None
    return [cuts.length, cuts.places, [ratio.as_integer_ratio() for ratio in cuts.ratios], cuts.kept]


def _cuts_of_facts(facts: list[Any] | None) -> Cuts | None:
    if facts is None:
        return None
    length, places, ratios, kept = facts
    return Cuts(
        length,
        tuple(Place(*place) for place in places),
        tuple(Fraction(*ratio) for ratio in ratios),
        tuple((low, high) for low, high in kept),
    )
