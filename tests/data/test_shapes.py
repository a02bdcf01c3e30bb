"""Drawn pictures: what a caption says is in the scene, and what the scene says is in the pixels."""

from collections import Counter

import numpy as np
import pytest
import torch

from t2ilayers.data import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    CaptionedShapes,
    named_attributes,
)
from t2ilayers.data.drawn.drawing import Backdrop, Figure, _opacity, draw, draw_mask
from t2ilayers.data.drawn.shapes import _BACKGROUNDS, _COLOURS
from t2ilayers.words import tokenize

BLACK = Backdrop("plain", (-1.0, -1.0, -1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def shapes() -> CaptionedShapes:
    return CaptionedShapes(3000, image_size=32)


def truth(shapes, index):
    scene = shapes.attributes(index)
    main = scene.objects[0]
    return {**vars(main), "background": scene.background, "texture": scene.texture}


def test_what_a_caption_names_is_true_of_the_scene(shapes):
    named = Counter()
    for index in range(len(shapes)):
        facts = truth(shapes, index)
        for caption in shapes.captions(index):
            said = named_attributes(caption)
            assert said.items() <= facts.items(), (caption, facts)
            named.update(said.keys())
    # Every attribute is named often, none always.
    assert all(0.15 < named[key] / (5 * len(shapes)) < 0.99 for key in facts), named


def test_captions_are_five_short_different_and_name_colour_and_shape(shapes):
    for index in range(len(shapes)):
        captions = shapes.captions(index)
        assert len(set(captions)) == len(captions) == 5
        assert all(len(tokenize(caption)) <= 18 for caption in captions)
        both = [{"colour", "shape"} <= named_attributes(caption).keys() for caption in captions]
        assert sum(both) >= 4, captions
        assert not any(f" a {vowel}" in f" {caption}" for caption in captions for vowel in "aeiou")


def test_two_objects_are_both_mentioned_in_most_captions(shapes):
    pairs = [n for n in range(len(shapes)) if len(shapes.attributes(n).objects) == 2]
    assert 0.22 < len(pairs) / len(shapes) < 0.28
    for index in pairs:
        main, other = shapes.attributes(index).objects
        assert main.shape != other.shape
        assert main.colour != other.colour
        mentions = [f" {main.shape}" in c and f" {other.shape}" in c for c in shapes.captions(index)]
        assert sum(mentions) >= 4
    single = CaptionedShapes(200, max_objects=1)
    assert all(len(single.attributes(n).objects) == 1 for n in range(200))


def test_the_second_object_lends_the_first_nothing():
    assert named_attributes("a star and a small blue ring on the right on a plain background") == {
        "shape": "star",
        "texture": "plain",
    }
    assert named_attributes("hello") == {}


def test_attributes_are_balanced_and_the_vocabulary_covers_every_caption(shapes):
    facts = [truth(shapes, index) for index in range(len(shapes))]
    for key, values in [
        ("colour", COLOURS),
        ("shape", SHAPES),
        ("size", SIZES),
        ("place", PLACES),
        ("background", BACKGROUNDS),
        ("texture", TEXTURES),
    ]:
        counts = Counter(fact[key] for fact in facts)
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.7 * len(shapes) / len(values), counts
    used = {word for n in range(len(shapes)) for caption in shapes.captions(n) for word in tokenize(caption)}
    # Nothing is missing, and nothing is there that no caption uses.
    assert used | {"<end>"} == set(shapes.vocabulary.words)
    assert CaptionedShapes(1, split="test", seed=9).vocabulary == shapes.vocabulary


def test_the_class_is_shape_and_colour_of_the_main_object(shapes):
    assert shapes.class_ids.dtype == np.int64
    for index in range(300):
        main = shapes.attributes(index).objects[0]
        assert shapes.class_ids[index] == SHAPES.index(main.shape) * len(COLOURS) + COLOURS.index(main.colour)


def test_a_scene_depends_on_seed_split_and_index_only(shapes):
    again, short = CaptionedShapes(3000, image_size=32), CaptionedShapes(8, image_size=32)
    for index in (0, 3, 7):
        assert torch.equal(shapes.image(index), again.image(index))
        assert torch.equal(shapes.image(index), short.image(index))
        assert shapes.captions(index) == short.captions(index)
    for other in (CaptionedShapes(8, seed=1), CaptionedShapes(8, split="test")):
        assert [other.attributes(n) for n in range(8)] != [short.attributes(n) for n in range(8)]


@pytest.mark.parametrize("size", [16, 40, 128])
def test_the_same_scene_at_every_size(size):
    reference, other = CaptionedShapes(20, image_size=64), CaptionedShapes(20, image_size=size)
    for index in range(20):
        assert other.image(index).shape == (3, size, size)
        masks = [
            torch.nn.functional.adaptive_avg_pool2d(shapes.mask(index)[None], 8) for shapes in (reference, other)
        ]
        assert (masks[0] - masks[1]).abs().max() < 0.12
        assert reference.captions(index) == other.captions(index)


def test_pixels_show_the_named_colours_inside_the_mask_and_the_background_outside(shapes):
    palette = {name: torch.tensor(rgb) / 127.5 - 1 for name, rgb in (_COLOURS | _BACKGROUNDS).items()}
    for index in range(300):
        scene, image, mask = shapes.attributes(index), shapes.image(index), shapes.mask(index)[0]
        assert image.dtype == mask.dtype == torch.float32
        assert image.abs().max() <= 1
        assert 0 <= mask.min() <= mask.max() <= 1
        if len(scene.objects) == 1:
            mean = image[:, mask == 1].mean(1)
            nearest = min(palette, key=lambda name: float((palette[name] - mean).norm()))
            assert nearest == scene.objects[0].colour
        mean = image[:, mask == 0].mean(1)
        nearest = min(BACKGROUNDS, key=lambda name: float((palette[name] - mean).norm()))
        assert nearest == scene.background


def test_objects_are_whole_where_they_are_said_to_be_and_as_large():
    shapes = CaptionedShapes(1500, max_objects=1, image_size=64)
    extents = {size: [] for size in SIZES}
    at = (torch.arange(64) + 0.5) / 64
    for index in range(len(shapes)):
        thing, mask = shapes.attributes(index).objects[0], shapes.mask(index)[0]
        border = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.max() < 1
        x, y = (at[(mask > 0.5).any(axis)][[0, -1]].mean() for axis in (0, 1))
        offset = {"left": 0.5 - x, "right": x - 0.5, "top": 0.5 - y, "bottom": y - 0.5}
        if thing.place == "centre":
            assert max(offset.values()) < 0.075
        else:
            assert offset[thing.place] == max(offset.values()) > 0.09
        extents[thing.size].append(int((mask.sum(0) > 0.5).sum()))
    assert max(extents["small"]) + 5 < min(extents["large"])


def test_two_objects_hardly_overlap(shapes):
    for index in range(len(shapes)):
        figures = shapes._scene(index).figures
        if len(figures) == 2:
            areas = [float(draw_mask([figure], 32).sum()) for figure in figures]
            union = float(draw_mask(figures, 32).sum())
            assert union > sum(areas) - 0.06 * min(areas)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turn", [-0.175, 0.0, 0.175])
def test_a_figure_fits_the_box_it_is_drawn_in(shape, turn):
    _, _, alpha = _opacity(Figure(shape, 0.5, 0.5, 0.34, turn, (1.0, 1.0, 1.0)), 256)
    assert alpha.max() == 1
    assert max(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) == 0
    area = float(alpha.sum()) / (0.34 * 256) ** 2
    exact = {
        "circle": np.pi * 0.92**2,
        "square": 1.56**2,
        "triangle": 3 * np.sqrt(3) * 0.5**2,
        "star": 10 * 0.5 * 0.46 * np.sin(np.pi / 5),
        "cross": 2 * 1.84 * 0.6 - 0.6**2,
        "ring": np.pi * (0.92**2 - 0.48**2),
    }
    assert area == pytest.approx(exact[shape], rel=0.01)


def test_later_figures_cover_earlier_ones_and_edges_are_smooth():
    red = Figure("circle", 0.5, 0.5, 0.3, 0.0, (1.0, -1.0, -1.0))
    white = Figure("square", 0.5, 0.5, 0.1, 0.0, (1.0, 1.0, 1.0))
    picture = draw(BLACK, [red, white], 64)
    assert picture[2, 32, 32] > 0.9
    assert picture[2, 32, 44] == -1
    edge = picture[0, 32]
    assert np.any((edge > -0.9) & (edge < 0.7))


def test_sample_has_the_mask_and_repeats(shapes):
    first, second = shapes[5], shapes[5]
    assert torch.equal(first["image"], shapes.image(5))
    assert torch.equal(first["mask"], shapes.mask(5))
    assert first["mask"].shape == (1, 32, 32)
    assert first["caption"] == second["caption"]
    assert first["caption"] in shapes.captions(5)
    assert shapes.vocabulary.decode(first["tokens"].tolist()) == first["caption"]
    assert first["tokens"].shape == (18,)
    assert (
        len({sample["caption"] for sample in (shapes.sample(5, np.random.default_rng(n)) for n in range(60))}) == 5
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"image_size": 15}, "image_size must be at least 16, got 15"),
        ({"split": "val"}, "'val'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"max_objects": 3}, "max_objects must be 1 or 2, got 3"),
    ],
)
def test_wrong_arguments(options, says):
    with pytest.raises(ValueError, match=says):
        CaptionedShapes(**options)


@pytest.mark.parametrize("index", [-1, 3000])
def test_an_index_outside_is_an_index_error(shapes, index):
    for method in (
        shapes.__getitem__,
        shapes.image,
        shapes.mask,
        shapes.captions,
        shapes.key,
        shapes.attributes,
    ):
        with pytest.raises(IndexError, match=f"got {index}"):
            method(index)
