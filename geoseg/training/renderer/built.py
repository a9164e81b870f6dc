"""Roads, bridges, lots, cars and buildings."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from geoseg.training.renderer.canvas import Canvas
from geoseg.training.renderer.land import Building, Land, Road
from geoseg.training.renderer.network import pave, ribbons
from geoseg.training.renderer.palette import Palette

__all__ = ["car_outlines", "paint_buildings", "paint_cars", "paint_lots", "paint_roads"]

_WHITE = (226, 226, 220)
_YELLOW = (206, 176, 84)
_CARS = np.array(
    [
        (232, 232, 230), (214, 216, 218), (168, 170, 172), (120, 122, 124), (48, 50, 54), (34, 35, 38), (70, 74, 80),
        (146, 40, 38), (42, 62, 110), (92, 112, 136), (120, 108, 88), (44, 74, 58), (196, 178, 140),
    ],
    np.float64,
)  # fmt: skip
_CAR_SHARES = (0.2, 0.1, 0.13, 0.1, 0.12, 0.08, 0.06, 0.06, 0.05, 0.04, 0.03, 0.01, 0.02)


def _strips(
    roads: Sequence[Road], offsets: Sequence[float], width_m: float, *, on_m: float = 6.0, off_m: float = 0.0
) -> NDArray[np.float64]:
    """Dashes along several roads: float64 (n, 4, 2)."""
    parts = [np.zeros((0, 4, 2))]
    parts += [
        ribbons(road.line, offset_m=o, width_m=width_m, on_m=on_m, off_m=off_m) for road in roads for o in offsets
    ]
    return np.concatenate(parts)


def _outside(rings: NDArray[np.float64], area: Polygon) -> NDArray[np.float64]:
    """Rings whose centre is outside an area."""
    centre = rings.mean(axis=1)
    shapely.prepare(area)
    return np.asarray(rings[~shapely.contains_xy(area, centre[:, 0], centre[:, 1])])


def _junctions(roads: Sequence[Road]) -> Polygon:
    """Where roads meet at grade, a little more than their common area."""
    plain = [road for road in roads if road.kind in ("main", "street")]
    bodies = [road.area.buffer(0.5) for road in plain]
    tree = shapely.STRtree(bodies)
    first, second = tree.query(bodies, predicate="intersects")
    pairs = [bodies[i].intersection(bodies[j]).buffer(3) for i, j in zip(first, second, strict=True) if i < j]
    return shapely.union_all(pairs)


def _mark(canvas: Canvas, palette: Palette, roads: Sequence[Road], junctions: Polygon) -> None:
    """Edge and centre lines, lane dashes, wheel tracks."""
    rng = canvas.rng
    highways = [road for road in roads if road.kind == "highway"]
    mains = [road for road in roads if road.kind == "main"]
    lane = 3.65
    wear = 0.5 + 0.3 * np.clip(canvas.mottled, -1, 1)
    for road in highways:
        lanes = 3 if road.width_m > 13 else 2
        centres = [(i - (lanes - 1) / 2) * lane for i in range(lanes)]
        tracks = _strips([road], [c + d for c in centres for d in (-0.85, 0.85)], 0.7)
        canvas.blend(canvas.cover_rings(tracks) * 0.35 * (0.6 + wear), palette.asphalt * 0.88)
        canvas.blend(
            canvas.cover_rings(_strips([road], [-lanes * lane / 2, lanes * lane / 2], 0.22)) * (0.4 + wear), _WHITE
        )
        dashes = _strips([road], [(i - lanes / 2) * lane for i in range(1, lanes)], 0.18, on_m=4.5, off_m=7.5)
        canvas.blend(canvas.cover_rings(dashes) * (0.4 + wear), _WHITE)
    marked = rng.random() < 0.7
    for road in mains:
        half = road.width_m / 2
        tracks = _strips([road], [s * half * f for s in (-1, 1) for f in (0.28, 0.72)], 0.6)
        canvas.blend(canvas.cover_rings(tracks) * 0.22 * (0.5 + wear), palette.asphalt * rng.choice([0.86, 1.12]))
        if marked and road.width_m > 5.8:
            solid = rng.random() < 0.35
            centre = _strips([road], [-0.15, 0.15] if solid else [0.0], 0.13, on_m=3.0, off_m=0.0 if solid else 6.0)
            colour = _YELLOW if rng.random() < 0.5 else _WHITE
            canvas.blend(canvas.cover_rings(_outside(centre, junctions)) * (0.3 + wear), colour)
            sides = _outside(_strips([road], [-half + 0.3, half - 0.3], 0.14), junctions)
            canvas.blend(canvas.cover_rings(sides) * (0.3 + wear), _WHITE)


def paint_roads(canvas: Canvas, palette: Palette, land: Land) -> None:
    """Verges, tracks, asphalt, markings, then bridges and overpasses above them."""
    rng = canvas.rng
    by_kind = {
        kind: [road for road in land.roads if road.kind == kind] for kind in ("track", "street", "main", "highway")
    }
    dry = shapely.union_all(land.water)
    worn = 0.035 * canvas.mottled + 0.03 * canvas.grain + 0.05 * canvas.patchy + 0.02 * canvas.broad
    sealed = [road.area for kind in ("main", "highway") for road in by_kind[kind]]
    verge = shapely.union_all(sealed).buffer(rng.uniform(0.5, 1.4)).difference(dry)
    canvas.blend(canvas.cover([verge]) * np.clip(0.6 + 0.4 * canvas.mottled, 0, 1), palette.gravel * 0.9, noise=worn)
    if by_kind["track"]:
        area = pave(by_kind["track"], kinds=("track",))
        canvas.blend(canvas.cover([area]), palette.gravel * 0.95, noise=worn + 0.04 * canvas.other(canvas.patchy))
        middle = canvas.cover_rings(_strips(by_kind["track"], [0.0], 0.8))
        canvas.blend(middle * np.clip(0.25 + 0.45 * canvas.patchy, 0, 0.8), palette.grass)
    if by_kind["street"]:
        walks = shapely.union_all(
            [road.line.buffer(road.width_m / 2 + 1.8, cap_style="flat") for road in by_kind["street"]]
        )
        canvas.blend(canvas.cover([walks]) * 0.85, palette.concrete, noise=worn)
    plain = [*by_kind["street"], *by_kind["main"]]
    surface = (
        palette.gravel if rng.random() < 0.22 and land.extent_m > 600 else palette.asphalt * rng.uniform(0.9, 1.25)
    )
    if plain:
        canvas.blend(
            canvas.cover([pave(by_kind["main"])]) if by_kind["main"] else canvas.cover([]), surface, noise=worn
        )
        canvas.blend(
            canvas.cover([pave(by_kind["street"])]) if by_kind["street"] else canvas.cover([]),
            palette.asphalt * 1.04,
            noise=worn,
        )
        corners = canvas.cover([pave(plain).difference(shapely.union_all([road.area for road in plain]))])
        canvas.blend(corners, palette.asphalt * 1.02, noise=worn)
    if by_kind["highway"]:
        asphalt = palette.asphalt * rng.uniform(0.85, 1.3) if rng.random() < 0.7 else palette.concrete * 0.95
        canvas.blend(canvas.cover([road.area for road in by_kind["highway"]]), asphalt, noise=worn)
        rail = ribbons(by_kind["highway"][0].line, offset_m=by_kind["highway"][0].width_m / 2 + 1.2, width_m=0.4)
        canvas.blend(canvas.cover_rings(rail) * 0.7, palette.concrete)
    _patch(canvas, palette, plain)
    junctions = _junctions(land.roads)
    below = [road for road in land.roads if road.kind == "highway"]
    _mark(canvas, palette, below, junctions)
    _mark_decks(canvas, palette, land, surface)
    _mark(canvas, palette, plain, junctions)


def _patch(canvas: Canvas, palette: Palette, roads: Sequence[Road]) -> None:
    """Repairs: short lengths of newer or older asphalt."""
    rng = canvas.rng
    for road in roads:
        cells = ribbons(
            road.line,
            offset_m=rng.choice([-1, 1]) * road.width_m / 4,
            width_m=road.width_m / 2.2,
            on_m=float(rng.uniform(4, 30)),
        )
        chosen = cells[rng.random(len(cells)) < 0.04]
        if len(chosen):
            canvas.blend(canvas.cover_rings(chosen) * 0.6, palette.asphalt * rng.uniform(0.7, 1.1))


def _mark_decks(canvas: Canvas, palette: Palette, land: Land, surface: NDArray[np.float64]) -> None:
    """Bridges: a lighter deck, its parapets, and the height that casts a shadow."""
    if not land.decks:
        return
    spans = [span for span, _ in land.decks]
    over = [span for span, height in land.decks if height > 5]
    noise = 0.03 * canvas.mottled + 0.03 * canvas.grain
    if over:
        canvas.blend(canvas.cover(over), surface * 0.4 + palette.concrete * 0.6, noise=noise)
    canvas.blend(canvas.cover(spans) * 0.35, palette.concrete, noise=noise)
    rims = shapely.union_all([span.buffer(0.3).difference(span.buffer(-0.3)) for span in spans])
    lines = shapely.union_all(
        [road.line.buffer(road.width_m / 2 - 0.6, cap_style="flat") for road in land.roads if road.kind != "track"]
    )
    rims = rims.difference(lines)
    if not rims.is_empty:
        canvas.blend(canvas.cover([rims]) * 0.8, palette.concrete * 1.12, noise=noise)
    for span, height in land.decks:
        cover = canvas.cover([span])
        np.maximum(canvas.height, np.float32(height) * (cover > 0.5), out=canvas.height)


def paint_lots(canvas: Canvas, palette: Palette, land: Land, outlines: Sequence[Polygon]) -> None:
    """Asphalt or concrete of lots, stall lines, arrows, stains, beds and kerbs.

    Args:
        canvas: the picture.
        palette: its colours.
        land: the lots.
        outlines: polygons of the lots in pixels.
    """
    if not land.lots:
        return
    rng = canvas.rng
    noise = 0.03 * canvas.grain + 0.035 * canvas.mottled + 0.05 * canvas.patchy
    for outline in outlines:
        tone = (
            palette.asphalt * rng.uniform(0.72, 1.3)
            if rng.random() < 0.8
            else palette.concrete * rng.uniform(0.85, 1.0)
        )
        canvas.blend(canvas.cover([outline], in_pixels=True), tone, noise=noise)
    for lot in land.lots:
        if len(lot.stalls):
            stains = lot.stalls.mean(axis=1, keepdims=True) * 0.45 + lot.stalls * 0.55
            stained = cv2.GaussianBlur(canvas.cover_rings(stains), (0, 0), max(0.5 / canvas.gsd_m, 0.3))
            canvas.blend(stained * np.float32(rng.uniform(0.05, 0.3)), palette.asphalt * 0.6)
            left, right = lot.stalls[:, [0, 3]], lot.stalls[:, [1, 2]]
            sides = np.concatenate([left, right])
            way = sides[:, 1] - sides[:, 0]
            across = (
                np.stack([-way[:, 1], way[:, 0]], axis=1)
                / np.hypot(way[:, 0], way[:, 1])[:, None]
                * rng.uniform(0.05, 0.09)
            )
            lines = np.stack(
                [sides[:, 0] - across, sides[:, 1] - across, sides[:, 1] + across, sides[:, 0] + across], axis=1
            )
            wear = np.clip(rng.uniform(0.45, 1.0) + 0.25 * canvas.mottled, 0, 1)
            canvas.blend(canvas.cover_rings(lines) * wear, _YELLOW if rng.random() < 0.15 else _WHITE)
        if lot.islands:
            canvas.blend(canvas.cover(lot.islands), palette.concrete * 1.02, noise=noise)
            fill = palette.grass if rng.random() < 0.75 else palette.soil * 0.9
            inner = canvas.cover([bed.buffer(-0.35) for bed in lot.islands])
            canvas.blend(inner, fill * 0.95, noise=0.1 * canvas.mottled)
        if len(lot.arrows):
            turn = lot.arrows[:, 2]
            along = np.stack([np.cos(turn), np.sin(turn)], axis=1)
            across = np.stack([-along[:, 1], along[:, 0]], axis=1)
            at = lot.arrows[:, :2]
            head = np.stack(
                [at + along * 1.4, at + across * 0.5 + along * 0.4, at - along * 1.6, at - across * 0.5 + along * 0.4],
                axis=1,
            )
            canvas.blend(canvas.cover_rings(head) * 0.7, _WHITE)


def _local(cars: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points in car coordinates (n, m, 2), x forward, on the land."""
    cos, sin = np.cos(cars[:, 2])[:, None], np.sin(cars[:, 2])[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([cars[:, :1] + x * cos - y * sin, cars[:, 1:2] + x * sin + y * cos], axis=-1)


def car_outlines(cars: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bodies of cars on the land: float64 (n, 8, 2), metres, from (x, y, heading, length)."""
    shape = np.array([(1, -0.6), (0.86, -1), (-0.88, -1), (-1, -0.7), (-1, 0.7), (-0.88, 1), (0.86, 1), (1, 0.6)])
    half = np.column_stack([cars[:, 3] / 2, np.where(cars[:, 3] > 8, 1.25, 0.39 + 0.115 * cars[:, 3])])
    return _local(cars, shape[None] * half[:, None])


def paint_cars(canvas: Canvas, cars: NDArray[np.float64]) -> None:
    """Bodies, glass and roofs; lorries with a cab and a box."""
    if not len(cars):
        return
    rng = canvas.rng
    bodies = car_outlines(cars)
    colours = _CARS[rng.choice(len(_CARS), len(cars), p=_CAR_SHARES)] * rng.uniform(0.9, 1.08, (len(cars), 1))
    lorry = cars[:, 3] > 8
    colours[lorry] = np.array([222, 222, 218]) * rng.uniform(0.6, 1.05, (int(lorry.sum()), 1))
    canvas.quads(bodies, colours)
    half = np.column_stack([cars[:, 3] / 2, np.abs(0.39 + 0.115 * np.minimum(cars[:, 3], 6))])
    glass = np.array([(0.42, -0.78), (0.42, 0.78), (0.12, 0.62), (0.12, -0.62)])
    rear = np.array([(-0.62, -0.6), (-0.62, 0.6), (-0.8, 0.72), (-0.8, -0.72)])
    roof = np.array([(0.1, -0.66), (0.1, 0.66), (-0.6, 0.66), (-0.6, -0.66)])
    plain = ~lorry
    dark = np.tile([(34.0, 40.0, 46.0)], (int(plain.sum()), 1))
    for part, tone in ((glass, dark), (rear, dark), (roof, colours[plain] * 1.06 + 4)):
        canvas.quads(_local(cars[plain], part[None] * half[plain][:, None]), tone, strength=0.85)
    cab = np.array([(0.74, -0.95), (0.74, 0.95), (0.7, 0.95), (0.7, -0.95)])
    canvas.quads(
        _local(
            cars[lorry], cab[None] * np.column_stack([cars[lorry, 3] / 2, np.full(int(lorry.sum()), 1.25)])[:, None]
        ),
        np.tile([(40.0, 40.0, 44.0)], (int(lorry.sum()), 1)),
    )
    canvas.raise_rings(bodies, np.where(lorry, 3.6, 1.45))


def _roof_colours(rng: np.random.Generator, building: Building) -> NDArray[np.float64]:
    choices = {
        "gable": ((158, 96, 74), (140, 112, 92), (112, 108, 106), (92, 88, 88), (166, 150, 132), (128, 92, 78)),
        "flat": ((206, 204, 198), (176, 174, 168), (142, 140, 136), (222, 222, 220), (168, 156, 138), (112, 112, 114)),
        "metal": ((216, 218, 218), (186, 192, 196), (142, 160, 172), (156, 98, 80), (128, 146, 128), (202, 196, 180)),
        "round": ((206, 208, 208), (186, 188, 186)),
    }[building.roof]
    return np.array(choices[int(rng.integers(len(choices)))], np.float64) * rng.uniform(0.9, 1.08) + rng.normal(0, 3, 3)


def _facets(canvas: Canvas, building: Building) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Parts of a roof with their colours in the light."""
    a, b, c, d = building.corners
    colour = _roof_colours(canvas.rng, building)
    if building.roof == "flat":
        centre = building.corners.mean(axis=0)
        shrink = 1 - 0.9 / max(float(np.hypot(*(c - b))), 3)
        return [building.corners, centre + (building.corners - centre) * shrink], [colour * 1.1, colour * 0.97]
    if building.roof == "round":
        centre, angle = building.corners.mean(axis=0), np.linspace(0, 2 * np.pi, 13)
        radius = float(np.hypot(*(b - a))) / 2
        ring = centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        wedges = [np.stack([centre, ring[i], (ring[i] + ring[i + 1]) / 2, ring[i + 1]]) for i in range(12)]
        tones = [colour * (0.85 + 0.25 * float((wedge[2] - centre) @ canvas.sun) / radius) for wedge in wedges]
        return wedges, tones
    ridge = ((a + d) / 2, (b + c) / 2)
    if building.roof == "gable" and canvas.rng.random() < 0.4:  # hipped
        inset = (ridge[1] - ridge[0]) * min(0.5, 0.5 * float(np.hypot(*(d - a)) / np.hypot(*(b - a))))
        ridge = (ridge[0] + inset, ridge[1] - inset)
    pieces = [np.stack([a, b, ridge[1], ridge[0]]), np.stack([d, c, ridge[1], ridge[0]])]
    pieces += [np.stack([a, (a + d) / 2, d, ridge[0]]), np.stack([b, (b + c) / 2, c, ridge[1]])]
    middle = building.corners.mean(axis=0)
    steep = 0.34 if building.roof == "gable" else 0.13
    outward = [(a + b) / 2 - middle, (c + d) / 2 - middle, (a + d) / 2 - middle, (b + c) / 2 - middle]
    tones = [colour * (0.93 + steep * float(out @ canvas.sun) / max(float(np.hypot(*out)), 1e-9)) for out in outward]
    return pieces, tones


def paint_buildings(canvas: Canvas, buildings: Sequence[Building]) -> None:
    """Roofs with facets in the light, machines on flat ones, and heights for the shadows."""
    if not buildings:
        return
    rng = canvas.rng
    rings: list[NDArray[np.float64]] = []
    tones: list[NDArray[np.float64]] = []
    for building in buildings:
        facets, colours = _facets(canvas, building)
        if building.roof == "flat":
            canvas_rings, canvas_tones = facets[:1], colours[:1]
            rings += canvas_rings
            tones += canvas_tones
        else:
            rings += facets
            tones += colours
    noise = 0.03 * canvas.mottled + 0.025 * canvas.grain + 0.03 * canvas.patchy
    canvas.quads(np.array(rings), np.array(tones), noise=noise)
    boxes, box_tones, box_heights = [], [], []
    inner, inner_tones = [], []
    for building in (b for b in buildings if b.roof == "flat"):
        facets, colours = _facets(canvas, building)
        inner.append(facets[1])
        inner_tones.append(colours[1])
        a, b, _, d = building.corners
        area = float(np.hypot(*(b - a)) * np.hypot(*(d - a)))
        for _ in range(min(int(rng.poisson(area / 220)), 60)):
            u, v = rng.uniform(0.08, 0.92, 2)
            centre = a + u * (b - a) + v * (d - a)
            along = (b - a) / np.hypot(*(b - a)) * rng.uniform(0.6, 1.8)
            across = (d - a) / np.hypot(*(d - a)) * rng.uniform(0.6, 1.6)
            boxes.append(
                np.stack(
                    [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
                )
            )
            box_tones.append(np.full(3, rng.uniform(110, 215)))
            box_heights.append(building.height_m + rng.uniform(0.8, 1.8))
    if inner:
        canvas.quads(np.array(inner), np.array(inner_tones), noise=noise * 1.4)
    canvas.raise_rings(np.stack([b.corners for b in buildings]), [b.height_m for b in buildings])
    if boxes:
        canvas.quads(np.array(boxes), np.array(box_tones), noise=noise)
        canvas.raise_rings(np.array(boxes), box_heights)
