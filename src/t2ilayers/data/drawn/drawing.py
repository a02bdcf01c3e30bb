"""Pictures from signed distances: shapes with smooth edges over a textured background, at any size.

Coordinates run over the picture from 0 to 1, x to the right and y downward, so a scene looks the same at
every size. Colours are triples in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Triple = tuple[float, float, float]

_LATTICE = 7  # a cloudy background is this many random values a side, interpolated
_CLOUDS: Array = np.random.default_rng(7).uniform(-1.0, 1.0, (64, 64)).astype(np.float32)


@dataclass(frozen=True)
class Figure:
    """A shape with its centre, radius, turn (radians) and colour; it reaches no further than that a side."""

    shape: str
    x: float
    y: float
    radius: float
    turn: float
    colour: Triple


@dataclass(frozen=True)
class Backdrop:
    """A texture, its colour, how much the texture varies that, and four numbers in [0, 1) for its looks."""

    texture: str
    colour: Triple
    contrast: Triple
    looks: tuple[float, float, float, float]


def draw(backdrop: Backdrop, figures: Sequence[Figure], size: int) -> Array:
    """The picture ``(3, size, size)``, float32 in [-1, 1]; later figures cover earlier ones.

    A pixel of a figure has the opacity ``clip(1/2 - d, 0, 1)``, ``d`` its signed distance in pixels.

    Example:
        >>> grey = Backdrop(
        ...     "plain", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5)
        ... )
        >>> dot = Figure("circle", 0.5, 0.5, 0.25, 0.0, (1.0, -1.0, -1.0))
        >>> picture = draw(grey, [dot], 32)
        >>> picture[:, 16, 16].round(1).tolist(), picture[:, 0, 0].tolist()
        ([1.0, -1.0, -1.0], [0.0, 0.0, 0.0])
    """
    texture = _TEXTURES[backdrop.texture](size, backdrop.looks)
    picture = np.multiply.outer(np.array(backdrop.contrast, np.float32), texture)
    picture += np.array(backdrop.colour, np.float32)[:, None, None]
    for figure in figures:
        rows, columns, alpha = _opacity(figure, size)
        box = picture[:, rows, columns]
        # Light falls from above: a little brighter at the top, darker at the bottom.
        light = (figure.y - _centres(size)[rows]) * np.float32(0.22 / figure.radius)
        change = np.add.outer(np.array(figure.colour, np.float32), light)[:, :, None] - box
        change *= alpha
        box += change  # a view of the picture
    return np.clip(picture, -1.0, 1.0, out=picture)


def draw_mask(figures: Sequence[Figure], size: int) -> Array:
    """Opacity of all figures together, ``(1, size, size)``, float32 in [0, 1].

    Example:
        >>> mask = draw_mask(
        ...     [Figure("square", 0.5, 0.5, 0.4, 0.0, (1.0, 1.0, 1.0))], 32
        ... )
        >>> float(mask[0, 16, 16]), float(mask[0, 0, 0])
        (1.0, 0.0)
    """
    clear = np.ones((1, size, size), np.float32)
    for figure in figures:
        rows, columns, alpha = _opacity(figure, size)
        clear[0, rows, columns] *= 1.0 - alpha
    return 1.0 - clear


def _opacity(figure: Figure, size: int) -> tuple[slice, slice, Array]:
    """Opacity of a figure in the smallest box around its circle."""
    reach = figure.radius + 1.0 / size
    columns = slice(max(0, math.floor((figure.x - reach) * size)), math.ceil((figure.x + reach) * size))
    rows = slice(max(0, math.floor((figure.y - reach) * size)), math.ceil((figure.y + reach) * size))
    dx = (_centres(size)[columns] - np.float32(figure.x)) * np.float32(1.0 / figure.radius)
    dy = (_centres(size)[rows] - np.float32(figure.y)) * np.float32(1.0 / figure.radius)
    cos, sin = np.float32(math.cos(figure.turn)), np.float32(math.sin(figure.turn))
    x = np.add.outer(dy * sin, dx * cos)
    y = np.add.outer(dy * cos, dx * -sin)
    distance = _DISTANCES[figure.shape](x, y)
    distance *= np.float32(-figure.radius * size)
    distance += np.float32(0.5)
    return rows, columns, np.clip(distance, 0.0, 1.0, out=distance)


# Signed distances at (x, y), negative inside, for a figure of radius 1. Outside of corners some are smaller
# than the Euclidean distance, which keeps corners sharp; their zero lines are exact.


def _circle(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - np.float32(0.92)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.78)


def _triangle(x: Array, y: Array) -> Array:
    y = y - np.float32(0.25)  # centre of the triangle's box rather than of its mass
    slanted = np.float32(math.sqrt(3) / 2) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slanted, y) - np.float32(0.5)


def _star(x: Array, y: Array) -> Array:
    # Five points: mirror three times, then the distance to one edge (Inigo Quilez, "2D distance functions").
    cos, sin = np.float32(math.cos(math.pi / 5)), np.float32(math.sin(math.pi / 5))
    x, y = np.abs(x), -y
    for side in (np.float32(1), np.float32(-1)):
        over = np.float32(2) * np.maximum(side * cos * x - sin * y, 0)
        x = x - over * (side * cos)
        y = y + over * sin
    x, y = np.abs(x), y - 1
    ex, ey = np.float32(0.46) * sin, np.float32(0.46) * cos - 1
    along = np.clip((x * ex + y * ey) / (ex * ex + ey * ey), 0, 1)
    inside = np.sign(y * ex - x * ey)
    return np.hypot(x - ex * along, y - ey * along) * inside


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(0.92), np.minimum(x, y) - np.float32(0.3))


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.7)) - np.float32(0.22)


_DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}

# Textures (size, size) in [-1, 1].
_Looks = tuple[float, float, float, float]


def _plain(size: int, looks: _Looks) -> Array:
    angle = 2 * math.pi * looks[0]
    at = _centres(size) - np.float32(0.5)
    slope: Array = np.add.outer(at * np.float32(math.sin(angle)), at * np.float32(math.cos(angle)))
    return slope


def _striped(size: int, looks: _Looks) -> Array:
    angle, waves = math.pi * looks[0], 2 * math.pi * (4 + 2 * looks[1])
    at = _centres(size) * np.float32(waves)
    phase = np.float32(2 * math.pi * looks[2])
    wave = np.sin(np.add.outer(at * np.float32(math.sin(angle)), at * np.float32(math.cos(angle)) + phase))
    return _sharpened(wave)


def _checked(size: int, looks: _Looks) -> Array:
    at = _centres(size) * np.float32(2 * math.pi * (2.5 + 1.5 * looks[0]))
    across, down = (_sharpened(np.sin(at + np.float32(2 * math.pi * shift))) for shift in looks[1:3])
    return np.multiply.outer(down, across)


def _cloudy(size: int, looks: _Looks) -> Array:
    row, column = (int(look * (len(_CLOUDS) - _LATTICE)) for look in looks[:2])
    weights = _interpolation(size)
    lattice = _CLOUDS[row : row + _LATTICE, column : column + _LATTICE]
    clouds: Array = np.matmul(np.matmul(weights, lattice), weights.T)
    return clouds


_TEXTURES: dict[str, Callable[[int, _Looks], Array]] = {
    "plain": _plain,
    "striped": _striped,
    "checked": _checked,
    "cloudy": _cloudy,
}


def _sharpened(wave: Array) -> Array:
    """A wave with flat tops, soft enough to stay free of aliases in the smallest pictures."""
    wave = wave * np.float32(2.5)
    return np.clip(wave, -1.0, 1.0, out=wave)


@lru_cache(maxsize=8)
def _centres(size: int) -> Array:
    """Centres of the pixels along a side, ``(size,)``."""
    return ((np.arange(size) + 0.5) / size).astype(np.float32, copy=False)


@lru_cache(maxsize=8)
def _interpolation(size: int) -> Array:
    """Weights ``(size, _LATTICE)`` of smooth interpolation between lattice points along a side."""
    distance = np.abs(_centres(size)[:, None] * np.float32(_LATTICE - 1) - np.arange(_LATTICE, dtype=np.float32))
    near = np.clip(1.0 - distance, 0.0, 1.0)
    return (near * near * (3.0 - 2.0 * near)).astype(np.float32)
