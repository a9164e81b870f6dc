"""The page of an evaluation: one HTML file with its figures, the confusion matrix and the worst places in pictures.

Nothing is fetched: pictures are PNG inside the file, the reliability diagram is SVG.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoseg.atomic import staged
from geoseg.codes import NODATA
from geoseg.evaluation.bootstrap import Figure
from geoseg.evaluation.judge import look
from geoseg.evaluation.report import Report, Spot
from geoseg.evaluation.subjects import Subject
from geoseg.grids import read_on
from geoseg.lattice import Window

__all__ = ["HEADINGS", "png", "write_page"]

HEADINGS = {
    "iou": "IoU",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "boundary_f1": "boundary F1",
    "boundary_iou": "boundary IoU",
    "object_f1": "object F1",
    "pq": "PQ",
    "ap50": "AP50",
    "ap50_95": "AP50:95",
    "relaxed_f1": "relaxed F1",
    "apls": "APLS",
    "connected": "connected",
    "ece": "ECE",
}
"""Figures that tables show, in order, and what they are called there."""
MARGIN = 32  # pixels of surroundings in a picture
NAMED = {"water": (51, 119, 204), "road": (90, 90, 90), "field": (228, 190, 76), "parking": (199, 84, 143)}
OTHERS = ((68, 170, 153), (170, 68, 102), (136, 34, 85), (51, 34, 136), (153, 153, 51), (17, 119, 51))
GROUND, UNKNOWN = (245, 245, 242), (200, 200, 205)
RIGHT, MISSED, INVENTED, MIXED = (186, 214, 186), (38, 96, 196), (214, 62, 48), (150, 60, 170)

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1240px;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #e4e4e4;font-weight:normal}th{color:#555}
td:first-child,th:first-child{text-align:left}small{color:#777;display:block}
figure{margin:1.2em 0;display:flex;gap:8px;flex-wrap:wrap}figure div{text-align:center;color:#555;font-size:.85em}
img{image-rendering:pixelated;width:288px;border:1px solid #ddd;display:block}.key i{display:inline-block;width:.9em;
height:.9em;margin:0 .3em 0 1em;border:1px solid #aaa;vertical-align:-.1em}.wide{overflow-x:auto}
"""


def write_page(path: Path, report: Report, subjects: Sequence[Subject]) -> None:
    """Write the page.

    Args:
        path: of the HTML file; one that is there is replaced.
        report: what the page is about.
        subjects: the scenes, to look at the worst places again.

    Raises:
        OutputError: it cannot be written.
    """
    names = [name for name, _ in report.settings.classes]
    colours = _colours(names)
    shown = ", ".join(report.scenes[:3]) + (f" and {len(report.scenes) - 3} more" if len(report.scenes) > 3 else "")
    title = f"Evaluation of {html.escape(shown)}"
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
        f"<h1>{title}</h1>",
        f"<p>{_summary(report)}</p>",
        "<h2>Figures</h2>",
        _figures(report),
        "<h2>Confusion</h2><p>Pixels: rows are true classes, columns predicted ones; shares of the row.</p>",
        _confusion(report, names),
    ]
    if report.reliability is not None:
        parts += ["<h2>Calibration</h2>", _reliability(report)]
    if report.worst:
        parts += ["<h2>Worst places</h2>", _key(names, colours)]
        parts += [_place(spot, subjects[spot.scene], report.scenes[spot.scene], colours) for spot in report.worst]
    with staged(path) as target:
        target.write_text("\n".join([*parts, "</html>\n"]), encoding="utf-8")


def png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture as PNG (W3C, *Portable Network Graphics*, 2003), every row unfiltered.

    Args:
        picture: uint8 (rows, cols, 3), RGB.
    """
    rows, cols, _ = picture.shape
    lines = np.zeros((rows, 1 + 3 * cols), np.uint8)
    lines[:, 1:] = picture.reshape(rows, -1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", cols, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _summary(report: Report) -> str:
    pixels = sum(map(sum, report.confusion))
    words = [f"{len(report.scenes)} scene{'s' if len(report.scenes) > 1 else ''}", f"{pixels:,} pixels judged"]
    if report.unpredicted:
        words.append(f"{report.unpredicted:,} more have a truth but no prediction")
    words += [
        f"{name} {_number(report.overall[key])}"
        for key, name in (("accuracy", "accuracy"), ("mean_iou", "mean IoU"), ("ece", "ECE"))
        if key in report.overall
    ]
    return "; ".join(words) + "."


def _number(figure: Figure | None) -> str:
    return "&ndash;" if figure is None or figure.value is None else f"{figure.value:.3f}"


def _cell(figure: Figure | None) -> str:
    text = _number(figure)
    if figure is not None and figure.low is not None and figure.high is not None:
        text += f"<small>{figure.low:.3f}&ndash;{figure.high:.3f}</small>"
    return f"<td>{text}"


def _figures(report: Report) -> str:
    used = [key for key in HEADINGS if any(key in found for found in report.classes.values())]
    head = "".join(f"<th>{HEADINGS[key]}" for key in used)
    rows = "".join(
        f"<tr><td>{html.escape(name)}{''.join(_cell(found.get(key)) for key in used)}"
        f"<td>{report.counts[name]['true']:,}<td>{report.counts[name]['predicted']:,}"
        for name, found in report.classes.items()
    )
    small = "<p><small>In small: 95 % intervals by bootstrap over scenes.</small>" if len(report.scenes) > 1 else ""
    ends = "<th>true objects<th>predicted"
    return f'<div class="wide"><table><tr><th>class{head}{ends}{rows}</table></div>{small}'


def _confusion(report: Report, names: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}" for name in ("background", *names))
    rows = []
    for name, row in zip(("background", *names), report.confusion, strict=True):
        total = sum(row)
        shares = [count / total if total else 0.0 for count in row]
        cells = "".join(
            f'<td style="background:rgba(51,119,204,{0.7 * share:.2f})">{share:.1%}<small>{count:,}</small>'
            for count, share in zip(row, shares, strict=True)
        )
        rows.append(f"<tr><td>{html.escape(name)}{cells}")
    return f"<table><tr><th>truth{head}{''.join(rows)}</table>"


def _reliability(report: Report) -> str:
    """Bars of how often a bin's pixels are right, over the line of perfect calibration."""
    bins = report.reliability or ()
    most = max((row[0] for row in bins), default=0) or 1
    bars = []
    for place, (pixels, right, sure) in enumerate(bins):
        if pixels:
            left, high = 300 * place / len(bins), 300 * right / pixels
            text = f"confidence {sure / pixels:.3f}, right {right / pixels:.3f}, {pixels:,.0f} pixels"
            bars.append(
                f'<rect x="{left:.1f}" y="{300 - high:.1f}" width="{300 / len(bins) - 1:.1f}" height="{high:.1f}" '
                f'fill="#37c" fill-opacity="{0.15 + 0.85 * (pixels / most) ** 0.5:.2f}"><title>{text}</title></rect>'
            )
    return (
        '<svg viewBox="-30 -5 340 330" width="340" role="img" aria-label="reliability diagram">'
        f'{"".join(bars)}<path d="M0 300 300 0M0 0V300H300" fill="none" stroke="#888"/>'
        '<text x="150" y="320" text-anchor="middle" font-size="13">confidence</text>'
        '<text x="-150" y="-8" text-anchor="middle" font-size="13" transform="rotate(-90)">share right</text></svg>'
    )


def _colours(names: Sequence[str]) -> NDArray[np.uint8]:
    """RGB of each class from background on, and of unknown as 255; (256, 3)."""
    table = np.full((256, 3), GROUND, np.uint8)
    spare = iter(OTHERS * 50)
    for place, name in enumerate(names, 1):
        table[place] = NAMED[name] if name in NAMED else next(spare)
    table[NODATA] = UNKNOWN
    return table


def _key(names: Sequence[str], colours: NDArray[np.uint8]) -> str:
    shades = [("background", GROUND), *((name, tuple(colours[place])) for place, name in enumerate(names, 1))]
    errors = [("right", RIGHT), ("missed", MISSED), ("invented", INVENTED), ("another class", MIXED)]
    shown = [*shades, ("unknown", UNKNOWN), *errors]
    return (
        '<p class="key">'
        + "".join(
            f'<i style="background:rgb({",".join(str(int(part)) for part in shade)})"></i>{html.escape(name)}'
            for name, shade in shown
        )
        + "</p>"
    )


def _place(spot: Spot, subject: Subject, scene: str, colours: NDArray[np.uint8]) -> str:
    """The pictures of one place and its surroundings."""
    window = Window(spot.col_off, spot.row_off, spot.width, spot.height).pad(MARGIN)
    seen = look(subject, window)
    truth = seen.truth[0]
    guess = np.where(truth == NODATA, np.uint8(NODATA), seen.pixels)
    errors = np.full((*truth.shape, 3), GROUND, np.uint8)
    errors[(guess == truth) & (truth > 0)] = RIGHT
    errors[(guess != truth) & (guess > 0) & (truth > 0)] = MIXED
    errors[(guess == 0) & (truth > 0)] = MISSED
    errors[(guess > 0) & (truth == 0)] = INVENTED
    errors[~seen.known] = UNKNOWN
    pictures = [("truth", colours[truth]), ("prediction", colours[seen.pixels]), ("errors", errors)]
    if subject.image is not None:
        pictures.insert(0, ("image", _image(subject, window)))
    shown = "".join(
        f'<div><img alt="{name}" src="data:image/png;base64,{base64.b64encode(png(picture)).decode()}">{name}</div>'
        for name, picture in pictures
    )
    lon, lat = spot.lonlat
    text = (
        f"{html.escape(scene)}, column {spot.col_off}, row {spot.row_off}, {lat:.6f} {lon:.6f}: "
        f"{spot.wrong:,} of {spot.known:,} pixels wrong ({spot.wrong / spot.known:.0%})"
    )
    return f"<p>{text}</p><figure>{shown}</figure>"


def _image(subject: Subject, window: Window) -> NDArray[np.uint8]:
    """The scene's first three bands, or its first one, stretched between their 2nd and 98th percentiles."""
    if subject.image is None:
        return np.zeros((window.height, window.width, 3), np.uint8)
    bands = (1, 2, 3) if len(subject.image.bands) >= 3 else (1, 1, 1)
    pixels, valid = read_on(subject.image, subject.grid, window, bands)
    picture = np.full((*valid.shape, 3), UNKNOWN, np.uint8)
    if valid.any():
        values = pixels.astype(np.float64)
        low, high = np.percentile(values[:, valid], [2, 98])
        scaled = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255
        picture[valid] = scaled.transpose(1, 2, 0)[valid].astype(np.uint8)
    return picture
