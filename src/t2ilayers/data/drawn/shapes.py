"""Captioned shapes: the dataset that is drawn, not downloaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..dataset import CaptionedDataset, Sample, check_image_size, check_seed
from .drawing import Backdrop, Figure, Triple, draw, draw_mask
from .grammar import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    ObjectAttributes,
    SceneAttributes,
    describe,
    grammar_vocabulary,
)

# In 0..255, of the objects and of the backgrounds; far from each other even with their jitter.
_COLOURS: dict[str, Triple] = {
    "red": (218, 36, 40),
    "orange": (250, 134, 22),
    "yellow": (250, 224, 50),
    "green": (46, 176, 70),
    "cyan": (70, 214, 228),
    "blue": (48, 92, 240),
    "magenta": (226, 56, 200),
    "white": (246, 246, 246),
}
_BACKGROUNDS: dict[str, Triple] = {
    "black": (16, 16, 18),
    "grey": (112, 112, 116),
    "navy": (22, 28, 84),
    "brown": (98, 62, 38),
    "olive": (86, 90, 34),
}
_RADII = {"small": (0.16, 0.2), "large": (0.3, 0.34)}  # of the picture's side
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_SECOND_OBJECT = 0.25  # probability

# A scene is a row of numbers in [0, 1): 5 for its kind, 10 for its captions, 5 for the second object and the
# place, 5 for the backdrop's looks, and 7 for how each of two objects is placed, turned and tinted.
_KIND, _WORDS, _SECOND, _LOOKS, _FIRST_JITTER, _SECOND_JITTER = 0, 5, 15, 20, 25, 32
_NUMBERS = 39


@dataclass(frozen=True)
class _Scene:
    attributes: SceneAttributes
    backdrop: Backdrop
    figures: tuple[Figure, ...]  # the main object last, so that it is drawn over the other


class CaptionedShapes(CaptionedDataset):
    """Pictures of one coloured shape or two over a dark background, five captions and the true mask each.

    A scene is a function of seed, split and index: the same at every ``image_size`` and for every ``length``.
    The main object has one of 8 colours, 6 shapes, 2 sizes and 5 places; a quarter of the pictures have a
    second one opposite to it. The background has one of 5 colours and 4 textures. Edges are antialiased.

    Its class, for negatives, is shape and colour of the main object: ``class_ids`` in [0, 48). The vocabulary
    is that of the grammar, whatever the captions of this length and split use of it. ``sample`` has ``mask``
    besides; nothing is augmented.

    Args:
        length: number of pictures.
        image_size: side S, at least 16.
        split: the scenes of ``"train"`` and ``"test"`` are drawn independently.
        seed: of the scenes, and of ``dataset[index]``.
        max_objects: 1 or 2.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> shapes = CaptionedShapes(100, image_size=32)
        >>> shapes.captions(9)[1]
        'a yellow cross and a red star against a navy background'
        >>> sample = shapes[9]
        >>> sample["image"].shape, sample["mask"].shape
        (torch.Size([3, 32, 32]), torch.Size([1, 32, 32]))
    """

    def __init__(
        self,
        length: int = 20000,
        image_size: int = 64,
        *,
        split: Literal["train", "test"] = "train",
        seed: int = 0,
        max_objects: int = 2,
    ) -> None:
        check_image_size(image_size)
        check_seed(seed)
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if split not in ("train", "test"):
            raise ValueError(f'split must be "train" or "test", got {split!r}')
        if max_objects not in (1, 2):
            raise ValueError(f"max_objects must be 1 or 2, got {max_objects}")
        self.split = split
        self.max_objects = max_objects
        # Filled row by row, so a row does not depend on how many follow.
        rng = np.random.default_rng((seed, 0 if split == "train" else 1))
        self._numbers = rng.random((length, _NUMBERS), dtype=np.float32)
        shape = (self._numbers[:, 0].astype(np.float64) * len(SHAPES)).astype(np.int64)
        colour = (self._numbers[:, 1].astype(np.float64) * len(COLOURS)).astype(np.int64)
        super().__init__(
            image_size=image_size,
            vocabulary=grammar_vocabulary(),
            seed=seed,
            class_ids=shape * len(COLOURS) + colour,
        )

    def attributes(self, index: int) -> SceneAttributes:
        """What picture ``index`` shows.

        Example:
            >>> scene = CaptionedShapes(10).attributes(3)
            >>> scene.objects[0].colour in COLOURS, scene.background in BACKGROUNDS
            (True, True)
        """
        return self._scene(index).attributes

    def captions(self, index: int) -> tuple[str, ...]:
        attributes = self.attributes(index)
        return describe(attributes, self._numbers[index, _WORDS:_SECOND].tolist())

    def key(self, index: int) -> str:
        self._check_index(index)
        return f"{self.split}-{self.seed}-{index:06d}"

    def image(self, index: int, rng: np.random.Generator | None = None) -> Tensor:
        """The picture ``(3, S, S)``, float32 in [-1, 1]. It is never augmented: ``rng`` is not used."""
        scene = self._scene(index)
        return torch.from_numpy(draw(scene.backdrop, scene.figures, self.image_size))

    def mask(self, index: int) -> Tensor:
        """Opacity of the objects, ``(1, S, S)`` float32: 1 inside, 0 outside, between on an edge.

        Example:
            >>> mask = CaptionedShapes(10, image_size=32).mask(0)
            >>> mask.shape, float(mask.max())
            (torch.Size([1, 32, 32]), 1.0)
        """
        return torch.from_numpy(draw_mask(self._scene(index).figures, self.image_size))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        sample = super().sample(index, rng)
        sample["mask"] = self.mask(index)
        return sample

    def _scene(self, index: int) -> _Scene:
        self._check_index(index)
        u: list[float] = self._numbers[index].tolist()
        shape, colour, size, background, texture = (
            options[int(number * len(options))]
            for options, number in zip(
                (SHAPES, COLOURS, SIZES, BACKGROUNDS, TEXTURES), u[_KIND:_WORDS], strict=True
            )
        )
        several, second_shape, second_colour, second_size, place_number = u[_SECOND:_LOOKS]
        if self.max_objects == 1 or several >= _SECOND_OBJECT:
            place = PLACES[int(place_number * len(PLACES))]
            objects: tuple[ObjectAttributes, ...] = (ObjectAttributes(colour, shape, size, place),)
        else:
            # Opposite sides, and not both large, so that they do not cover each other.
            place = PLACES[1 + int(place_number * (len(PLACES) - 1))]
            other = ObjectAttributes(
                _another(COLOURS, colour, second_colour),
                _another(SHAPES, shape, second_shape),
                "small" if size == "large" or second_size < 0.5 else "large",
                _OPPOSITE[place],
            )
            objects = (ObjectAttributes(colour, shape, size, place), other)
        jitters = (u[_FIRST_JITTER:_SECOND_JITTER], u[_SECOND_JITTER:])
        figures = [
            _figure(thing, jitter, crowded=len(objects) == 2)
            for thing, jitter in zip(objects, jitters, strict=False)
        ]
        return _Scene(
            SceneAttributes(objects, background, texture),
            _backdrop(texture, background, u[_LOOKS:_FIRST_JITTER]),
            tuple(reversed(figures)),
        )


def _another(options: tuple[str, ...], taken: str, number: float) -> str:
    rest = [option for option in options if option != taken]
    return rest[int(number * len(rest))]


def _figure(thing: ObjectAttributes, u: list[float], *, crowded: bool) -> Figure:
    """Geometry of an object; two in a picture are kept to the lesser radii and nearer to the edge."""
    low, high = _RADII[thing.size]
    radius = low + (0.25 if crowded else 1.0) * (high - low) * u[0]
    gap = 0.01 + (0.01 if crowded else 0.03) * u[1]
    x, y = 0.47 + 0.06 * u[1], 0.47 + 0.06 * u[2]
    if thing.place in ("left", "right"):
        x = radius + gap if thing.place == "left" else 1 - radius - gap
    elif thing.place in ("top", "bottom"):
        y = radius + gap if thing.place == "top" else 1 - radius - gap
    turn = math.radians(20 * u[3] - 10)
    tint = (16 * u[4] - 8, 16 * u[5] - 8, 16 * u[6] - 8)
    return Figure(thing.shape, x, y, radius, turn, _unit(_COLOURS[thing.colour], tint))


def _backdrop(texture: str, background: str, u: list[float]) -> Backdrop:
    colour = _BACKGROUNDS[background]
    shade = 12 * u[4] - 6
    red, green, blue = (0.2 * value + 9 for value in colour)
    contrast = (red / 127.5, green / 127.5, blue / 127.5)
    return Backdrop(texture, _unit(colour, (shade, shade, shade)), contrast, (u[0], u[1], u[2], u[3]))


def _unit(colour: Triple, shift: Triple) -> Triple:
    """From 0..255 to [-1, 1]."""
    red, green, blue = ((value + by) / 127.5 - 1 for value, by in zip(colour, shift, strict=True))
    return red, green, blue
