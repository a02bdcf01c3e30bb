"""What the drawn pictures show, and the sentences that say it: attributes to captions and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...vocabulary import Vocabulary
from ...words import tokenize

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "magenta", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
PLACES = ("centre", "left", "right", "top", "bottom")
BACKGROUNDS = ("black", "grey", "navy", "brown", "olive")
TEXTURES = ("plain", "striped", "checked", "cloudy")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "size": SIZES,
    "place": PLACES,
    "background": BACKGROUNDS,
    "texture": TEXTURES,
}
"""What captions of drawn shapes can name, and the words for each."""

CAPTIONS_PER_PICTURE = 5

_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
_PLACE_PHRASES = {
    "centre": "in the centre",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_RELATIONS = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}

# One caption comes from each row. The last row keeps the colour or the shape of the main object to itself.
_ONE_OBJECT = (
    ("a {colour} {shape} {place}", "there is a {colour} {shape} {place}", "{place} is a {colour} {shape}"),
    (
        "a {size} {colour} {shape} on a {background} background",
        "a picture of a {size} {colour} {shape} against a {background} background",
        "the background is {background} and the {shape} is {size} and {colour}",
    ),
    (
        "a {size} {colour} {shape} {place} of a {texture} {background} background",
        "a {texture} {background} background with a {size} {colour} {shape} {place}",
    ),
    (
        "this {shape} is {colour} and the background is {texture}",
        "one {colour} {shape} on a {texture} background",
        "this {size} {shape} is {colour}",
    ),
    (
        "a {size} {shape} {place}",
        "something {size} and {colour} {place}",
        "a {shape} on a {background} background",
    ),
)
_TWO_OBJECTS = (
    (
        "a {colour} {shape} {relation} a {other_colour} {other_shape}",
        "there is a {colour} {shape} {relation} a {other_colour} {other_shape}",
    ),
    (
        "a {size} {colour} {shape} and a {other_size} {other_colour} {other_shape} on a {background} background",
        "a {colour} {shape} and a {other_colour} {other_shape} against a {background} background",
    ),
    (
        "a {colour} {shape} {place} and a {other_colour} {other_shape} {other_place}",
        "a {size} {colour} {shape} {place} and a {other_size} {other_colour} {other_shape} {other_place}",
    ),
    (
        "a {size} {colour} {shape} {relation} a {other_shape} on a {texture} {background} background",
        "a {colour} {shape} and a {other_shape} on a {texture} background",
    ),
    ("a {size} {shape} {relation} a {other_size} {other_shape}", "a {size} {colour} {shape} {place}"),
)
_TEMPLATES = _ONE_OBJECT + _TWO_OBJECTS


@dataclass(frozen=True)
class ObjectAttributes:
    """One object: its colour, shape, size and place, each a word of the public tuples.

    Example:
        >>> ObjectAttributes("red", "star", "small", "left").shape
        'star'
    """

    colour: str
    shape: str
    size: str
    place: str


@dataclass(frozen=True)
class SceneAttributes:
    """What a picture shows: its objects, the main one first, and the background's colour and texture.

    Example:
        >>> scene = SceneAttributes(
        ...     (ObjectAttributes("red", "star", "small", "left"),), "navy", "plain"
        ... )
        >>> scene.objects[0].colour, scene.background
        ('red', 'navy')
    """

    objects: tuple[ObjectAttributes, ...]
    background: str
    texture: str


def describe(scene: SceneAttributes, choices: Sequence[float]) -> tuple[str, ...]:
    """Five captions of a scene, no two alike, of at most 18 words.

    Four of them name colour and shape of the main object. It is the first object named in each.

    Args:
        scene: what to describe, one object or two.
        choices: ten numbers in [0, 1) that choose among sentences and synonyms.

    Example:
        >>> scene = SceneAttributes(
        ...     (ObjectAttributes("orange", "star", "small", "left"),), "navy", "plain"
        ... )
        >>> for caption in describe(scene, [0.0] * 10):
        ...     print(caption)
        an orange star on the left
        a small orange star on a navy background
        a small orange star on the left of a plain navy background
        this star is orange and the background is plain
        a small star on the left
    """
    main = scene.objects[0]
    words = {
        "colour": main.colour,
        "shape": main.shape,
        "place": _PLACE_PHRASES[main.place],
        "background": scene.background,
        "texture": scene.texture,
    }
    if len(scene.objects) == 2:
        other = scene.objects[1]
        words |= {
            "relation": _RELATIONS[main.place],
            "other_colour": other.colour,
            "other_shape": other.shape,
            "other_place": _PLACE_PHRASES[other.place],
        }
    sentences = _ONE_OBJECT if len(scene.objects) == 1 else _TWO_OBJECTS
    picks, synonyms = choices[:CAPTIONS_PER_PICTURE], choices[CAPTIONS_PER_PICTURE:]
    captions = []
    for row, pick, synonym in zip(sentences, picks, synonyms, strict=True):
        words["size"] = _pick(_SIZE_WORDS[main.size], synonym)
        words["other_size"] = _pick(_SIZE_WORDS[scene.objects[-1].size], synonym)
        captions.append(re.sub(r"\ba (?=[aeiou])", "an ", _pick(row, pick).format_map(words)))
    return tuple(captions)


def named_attributes(caption: str) -> dict[str, str]:
    """What a caption says about the background and the main object, which is the first that it names.

    So an evaluation can ask whether a picture has what its caption named, and nothing more.

    Args:
        caption: a caption of ``CaptionedShapes``. Other sentences are read by the same words: an attribute
            counts for the main object where it comes before the article of the second.

    Returns:
        Those of ``"colour"``, ``"shape"``, ``"size"``, ``"place"``, ``"background"`` and ``"texture"`` that
        the caption names, as words of the public tuples (synonyms are resolved, "above" is ``"top"``).

    Example:
        >>> named_attributes("a big red star above an orange ring on a navy background")
        {'size': 'large', 'colour': 'red', 'shape': 'star', 'place': 'top', 'background': 'navy'}
    """
    words = tokenize(caption)
    shapes = [position for position, word in enumerate(words) if word in SHAPES]
    end = len(words)
    if len(shapes) > 1:
        end = max(position for position in range(shapes[1]) if words[position] in ("a", "an"))
    named: dict[str, str] = {}
    for position, word in enumerate(words):
        key, value = _MEANINGS.get(word, ("", ""))
        if key and (position < end or key in ("background", "texture")):
            named.setdefault(key, value)
    return named


def grammar_vocabulary() -> Vocabulary:
    """The words any caption of the grammar can have, the same for every dataset of drawn shapes.

    Example:
        >>> vocabulary = grammar_vocabulary()
        >>> "magenta" in vocabulary, vocabulary["<end>"]
        (True, 0)
    """
    sentences = [re.sub(r"\{\w+\}", " ", sentence) for row in _TEMPLATES for sentence in row]
    phrases = [*_PLACE_PHRASES.values(), *_RELATIONS.values()]
    return Vocabulary.build([*sentences, *phrases, *_MEANINGS, "an"])


def _pick(options: Sequence[str], choice: float) -> str:
    return options[int(choice * len(options))]


# The only words of the grammar that say something of a scene; no word says two things.
_MEANINGS: dict[str, tuple[str, str]] = {
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("shape", word) for word in SHAPES},
    **{word: ("size", size) for size, words in _SIZE_WORDS.items() for word in words},
    **{word: ("place", word) for word in PLACES},
    "above": ("place", "top"),
    "below": ("place", "bottom"),
    **{word: ("background", word) for word in BACKGROUNDS},
    **{word: ("texture", word) for word in TEXTURES},
}
