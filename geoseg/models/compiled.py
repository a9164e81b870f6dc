"""Parts of networks as OpenVINO compiled them for one CPU, as bytes that can be kept (floor 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from geoseg.models.parts import Hint, Part
from geoseg.models.strips import Place, Strips

__all__ = ["CompiledPart", "compile_part", "pack", "unpack"]


class CompiledPart(NamedTuple):
    """Some layers of a network, ready to be asked.

    Attributes:
        network: OpenVINO's.
        hint: of its arithmetic, see :class:`geoseg.models.parts.Part`.
        takes: names of its inputs.
        gives: names of its results.
        strips: where those lie in which it is computed, if it is.
    """

    network: Any
    hint: Hint
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    strips: Strips | None


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
    return CompiledPart(network, part.hint, takes, gives, part.strips)


def pack(parts: Sequence[CompiledPart]) -> bytes:
    """Compiled parts as bytes: a line of JSON for all, then what OpenVINO makes of each."""
    contents = [bytes(part.network.export_model().getbuffer()) for part in parts]
    facts = [
        [len(content), part.hint, part.takes, part.gives, _strips_to_facts(part.strips)]
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
    for length, hint, takes, gives, strips in json.loads(line):
        content = contents[begin : begin + length]
        network = core.import_model(content, "CPU", {**settings, **_of_arithmetic(hint)})
        found.append(CompiledPart(network, hint, tuple(takes), tuple(gives), _strips_of_facts(strips)))
        begin += length
    return found


def _of_arithmetic(hint: Hint) -> dict[str, str]:
    return {"INFERENCE_PRECISION_HINT": hint}


def _strips_to_facts(strips: Strips | None) -> list[Any] | None:
    if strips is None:
        return None
    return [strips.rows, strips.places, [ratio.as_integer_ratio() for ratio in strips.ratios], strips.kept]


def _strips_of_facts(facts: list[Any] | None) -> Strips | None:
    if facts is None:
        return None
    rows, places, ratios, kept = facts
    return Strips(
        rows,
        tuple(Place(*place) for place in places),
        tuple(Fraction(*ratio) for ratio in ratios),
        tuple((low, high) for low, high in kept),
    )
