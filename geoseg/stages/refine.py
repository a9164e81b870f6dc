"""Fits scores to the edges of the image: a CRF's mean field, or a guided filter, both strictly local (floor 2).

**Scores.** Each class has a score in 0-1 of its own, its odds against background: a class of score ``s`` stands
against the background as ``s`` to ``1 - s``, and the odds of all classes together are a distribution over the classes
and the background (the softmax of the logits and of 0). So a pixel's class is the one of the highest score if that is
at least 0.5, as for independent sigmoids, and a network with a softmax over background and classes takes part with
``p[k] / (p[k] + p[background])``. What comes back reads the same way.

**crf.** Mean field of a fully connected conditional random field with Gaussian kernels (P. Krähenbühl, V. Koltun,
*Efficient inference in fully connected CRFs with Gaussian edge potentials*, NeurIPS 2011,
https://arxiv.org/abs/1210.5644), its pairs restricted to a window of pixels (M. Teichmann, R. Cipolla, *Convolutional
CRFs for semantic segmentation*, BMVC 2019, https://arxiv.org/abs/1805.04777), with the Potts model: neighbours should
agree, the more so the closer and the more alike they look. The kernels of a window are normalised to a sum of 1. The
unary potentials are such that the scores are the fixed point where a window is of one mind: a network has seen the
neighbourhood, so where nothing contradicts it its confidence is neither raised nor lowered.

**guided.** The guided filter (K. He, J. Sun, X. Tang, *Guided image filtering*, IEEE TPAMI 35(6), 2013) of each score
by the mean of the bands: within a box a score is a linear function of the guide.

**Strictly local.** The result at a pixel depends on nothing farther away than :func:`reach_px`, along rows and columns,
and sums run in an order fixed per pixel. So a tile with that halo gives what the whole scene gives, bit for bit, and
images are worked through in strips of rows, which bounds the memory. Windows end at the image's edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp
from types import EllipsisType
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Method", "reach_px", "refine"]

Method: TypeAlias = Literal["crf", "guided"]

_Part: TypeAlias = tuple[EllipsisType, slice, slice]

STRIP = 256
"""Rows that are refined at once."""


@dataclass(frozen=True, slots=True)
class _Crf:
    """A CRF's parameters.

    Attributes:
        radius: of the window, in steps.
        step: pixels from one neighbour of the window to the next (dilation).
        iterations: of the mean field.
        weight: of the neighbours against the network, in units of the logits.
        near_px: deviation of the appearance kernel in space, pixels.
        alike: its deviation in values, root mean square over the bands, of 0-255.
        smooth: share of the smoothness kernel, 0-1.
        smooth_px: deviation of the smoothness kernel, pixels.
        surest: scores are brought into 1 - surest ... surest, so that no pixel is beyond persuasion.
    """

    radius: int
    step: int
    iterations: int
    weight: float
    near_px: float
    alike: float
    smooth: float
    smooth_px: float
    surest: float

    @property
    def reach(self) -> int:
        """Pixels from which a result depends."""
        return self.iterations * self.radius * self.step

    def offsets(self) -> Iterator[tuple[int, int]]:
        """Half of the window's neighbours, (rows down, columns right); the others are their mirror images."""
        side = range(-self.radius, self.radius + 1)
        return ((row * self.step, col * self.step) for row in side for col in side if (row, col) > (0, 0))


CRF = _Crf(
    radius=3,
    step=2,
    iterations=5,
    weight=2.0,
    near_px=6.0,
    alike=12.0,
    smooth=0.1,
    smooth_px=1.5,
    surest=0.999999,
)
GUIDED_RADIUS = 4
"""Of the boxes, pixels."""
GUIDED_EPSILON = 0.02**2
"""Variance of the guide, of 0-1, below which a box is flat."""


def reach_px(method: Method) -> int:
    """How far away a pixel can be and still change another one's result, pixels, along rows and columns.

    ``crf``: iterations x radius x step of the window; ``guided``: twice the radius.
    """
    return CRF.reach if method == "crf" else 2 * GUIDED_RADIUS


def refine(scores: Tensor, image: Tensor, method: Method) -> Tensor:
    """Fit scores to the edges of an image.

    Args:
        scores: float32 (N, K, rows, cols), each in 0-1, see the module.
        image: float32 (N, bands, rows, cols), values of 0-255; a constant where there is no data.
        method: how.

    Returns:
        Scores alike.
    """
    work: Callable[[Tensor, Tensor], Tensor] = _mean_field if method == "crf" else _filter
    reach = reach_px(method)
    rows = scores.shape[2]
    refined = scores.new_empty(scores.shape)
    for top in range(0, rows, STRIP):
        bottom = min(top + STRIP, rows)
        first = max(top - reach, 0)
        strip = slice(first, min(bottom + reach, rows))
        part = work(scores[:, :, strip].contiguous(), image[:, :, strip].contiguous())
        refined[:, :, top:bottom] = part[:, :, top - first : bottom - first]
    return refined


def _mean_field(scores: Tensor, image: Tensor) -> Tensor:
    """The CRF's marginals, as scores."""
    scores = scores.clamp(1 - CRF.surest, CRF.surest)
    logits = scores.log() - (1 - scores).log()
    pairs = [(*_sides(*offset), _kernel(image, *offset)) for offset in CRF.offsets()]
    nearby = _gather(pairs, image.new_ones((image.shape[0], 1, *image.shape[2:])))
    gain = CRF.weight / nearby.clamp_min(1e-12)
    belief = _softmax(logits)
    unary = logits - gain * nearby * (belief + _total(belief) - 1)
    for _ in range(CRF.iterations):
        message = _gather(pairs, belief).mul_(gain)
        # the background's message is what the others leave of the sum
        odds = unary + message + _total(message) - gain * nearby
        belief = _softmax(odds)
    return 1 / (1 + (-odds).exp())


def _sides(down: int, right: int) -> tuple[_Part, _Part]:
    """The pixels that have a neighbour at an offset, and these neighbours."""
    rows = slice(None, -down or None), slice(down, None)
    cols = slice(None, -abs(right) or None), slice(abs(right), None)
    here, there = cols if right >= 0 else cols[::-1]
    return (..., rows[0], here), (..., rows[1], there)


def _kernel(image: Tensor, down: int, right: int) -> Tensor:
    """How much the pixels of each pair at an offset should agree, (N, 1, rows, cols)."""
    here, there = _sides(down, right)
    apart = _total((image[here] - image[there]).square_())
    apart_px2 = down**2 + right**2
    alike = (apart * (-0.5 / (CRF.alike**2 * image.shape[1]))).exp_()
    appearance = (1 - CRF.smooth) * exp(-0.5 * apart_px2 / CRF.near_px**2)
    smoothness = CRF.smooth * exp(-0.5 * apart_px2 / CRF.smooth_px**2)
    return alike.mul_(appearance).add_(smoothness)


def _gather(pairs: list[tuple[_Part, _Part, Tensor]], planes: Tensor) -> Tensor:
    """Sums of planes over each pixel's neighbours, weighted by the kernels."""
    sums = planes.new_zeros(planes.shape)
    for here, there, kernel in pairs:
        sums[here].addcmul_(kernel, planes[there])
        sums[there].addcmul_(kernel, planes[here])
    return sums


def _total(planes: Tensor) -> Tensor:
    """Sum over the channels, (N, 1, rows, cols); `sum` adds in an order that may depend on the shape."""
    first, *others = planes.unbind(1)
    for plane in others:
        first = first + plane
    return first[:, None]


def _softmax(odds: Tensor) -> Tensor:
    """Shares of the classes; the background, of logit 0, has the rest."""
    highest = odds.amax(1, keepdim=True).clamp_min(0)
    shares = (odds - highest).exp_()
    return shares / (_total(shares) + (-highest).exp_())


def _filter(scores: Tensor, image: Tensor) -> Tensor:
    """The guided filter's result."""
    guide = _total(image) / (255 * image.shape[1]) - 0.5
    area = _box(guide.new_ones((1, 1, *guide.shape[2:])))
    mean = _box(guide) / area
    variance = _box(guide * guide) / area - mean * mean
    level = _box(scores) / area
    slope = (_box(scores * guide) / area - level * mean) / (variance.clamp_min(0) + GUIDED_EPSILON)
    offset = level - slope * mean
    return (_box(slope) / area * guide + _box(offset) / area).clamp(0, 1)


def _box(planes: Tensor) -> Tensor:
    """Sums over the square of each pixel; one shift after the other, so that no sum depends on what lies farther."""
    for along in (2, 3):
        sums = planes.clone()
        for apart in range(1, GUIDED_RADIUS + 1):
            size = planes.shape[along] - apart
            if size > 0:
                sums.narrow(along, 0, size).add_(planes.narrow(along, apart, size))
                sums.narrow(along, apart, size).add_(planes.narrow(along, 0, size))
        planes = sums
    return planes
