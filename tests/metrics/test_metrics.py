"""Metrics against plain loops, hand-computed cases and an oracle that knows the scenes."""

import pytest
import torch

from t2ilayers.data import COLOURS, CaptionedShapes, named_attributes
from t2ilayers.metrics import (
    ATTRIBUTE_CHANCE,
    ATTRIBUTES,
    AttributeClassifier,
    attribute_accuracy,
    foreground_on_white,
    mask_iou,
    r_precision,
    stage_ious,
    train_attribute_classifier,
)


def random_codes(n, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)


def cosine(a, b):
    return float((a @ b) / (a.norm() * b.norm()))


# R-precision


def test_r_precision_of_all_candidates_is_the_plain_loop():
    # With every sentence of another class among the candidates nothing is left to the draw.
    n, a_class = 60, 3
    images, sentences = random_codes(n)
    images = images + 0.5 * sentences  # neither always right nor always wrong
    classes = torch.arange(n) % (n // a_class)
    hits = []
    for i in range(n):
        rivals = [cosine(images[i], sentences[j]) for j in range(n) if classes[j] != classes[i]]
        hits.append(cosine(images[i], sentences[i]) > max(rivals))
    expected = sum(hits) / n
    assert 0.2 < expected < 0.95
    score = r_precision(images, sentences, classes, candidates=n - a_class + 1)
    assert score.mean == pytest.approx(expected)


def test_r_precision_of_one_rival_is_the_chance_to_beat_it():
    images, sentences = random_codes(40)
    images = images + 0.5 * sentences
    beaten = [
        sum(cosine(images[i], sentences[i]) > cosine(images[i], sentences[j]) for j in range(40) if j != i) / 39
        for i in range(40)
    ]
    draws = [r_precision(images, sentences, torch.arange(40), candidates=2, seed=seed).mean for seed in range(200)]
    assert sum(draws) / len(draws) == pytest.approx(sum(beaten) / 40, abs=0.02)
    assert len(set(draws)) > 5  # seeds draw different rivals
    assert draws[3] == r_precision(images, sentences, torch.arange(40), candidates=2, seed=3).mean


def test_r_precision_of_random_codes_is_chance():
    score = r_precision(*random_codes(2000), torch.arange(2000))
    assert score.mean == pytest.approx(0.01, abs=0.007)
    assert 0 < score.std < 0.02


def test_r_precision_takes_no_rivals_of_the_same_class():
    images, _ = random_codes(40)
    images = images[:20].repeat(2, 1)  # the second half repeats the first
    assert r_precision(images, images, torch.arange(40), candidates=40).mean == 0.5
    assert r_precision(images, images, torch.arange(40) % 20, candidates=39).mean == 1.0


def test_r_precision_takes_no_rivals_of_the_same_words():
    codes, _ = random_codes(40)
    codes = codes[:20].repeat(2, 1)
    captions = [f"Number {i}." for i in range(20)] + [f"number {i}" for i in range(20)]
    assert r_precision(codes, codes, torch.arange(40), candidates=39).mean < 1.0
    assert r_precision(codes, codes, torch.arange(40), captions=captions, candidates=39).mean == 1.0


def test_r_precision_folds():
    images, sentences = random_codes(100)
    images[:50] = sentences[:50]
    one = r_precision(images, sentences, torch.arange(100), folds=1)
    ten = r_precision(images, sentences, torch.arange(100), folds=10)
    single = r_precision(images, sentences, torch.arange(100), folds=100)
    assert one.std == 0.0
    assert one.mean == pytest.approx(ten.mean) == pytest.approx(single.mean)
    # Folds of one picture: hits and misses, whose standard deviation is known.
    assert single.std == pytest.approx((single.mean * (1 - single.mean)) ** 0.5)
    assert ten.std < 0.3


def test_r_precision_errors():
    codes, sentences = random_codes(120)
    classes = torch.arange(120)
    with pytest.raises(ValueError, match="got a picture with 98 among 120"):
        r_precision(codes, sentences, torch.tensor([0] * 22 + list(range(1, 99))))
    with pytest.raises(ValueError, match=r"got \(120, 16\), \(119, 16\) and \(120,\)"):
        r_precision(codes, sentences[1:], classes)
    with pytest.raises(ValueError, match="captions must be one per picture, 120, got 1"):
        r_precision(codes, sentences, classes, captions=["a"])
    with pytest.raises(ValueError, match="candidates must be at least 2"):
        r_precision(codes, sentences, classes, candidates=1)
    with pytest.raises(ValueError, match="folds must be 1 to N = 120, got 0"):
        r_precision(codes, sentences, classes, folds=0)
    codes[3, 3] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        r_precision(codes, sentences, classes)


# Masks


@pytest.fixture
def top_half():
    foreground = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    foreground[:, :, :2] = True
    return foreground


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.1, 0.45), (0.01, 0.9)])
def test_iou_of_a_corner_with_the_top_half_at_any_level(top_half, scale, offset):
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1.0
    mask = scale * mask + offset
    # Corner: 4 px, all within the 8 of the half. Outside of it: 12 px, of which 4 in the half.
    assert mask_iou(mask, top_half).tolist() == [4 / 8]
    result = stage_ious([mask], top_half)
    assert result.stages[0] == (4, 4 / 8, 4 / 16)
    assert result.constant == 8 / 16


def test_iou_upsamples_with_aligned_corners(top_half):
    # 1 at the top, 0 at the bottom; at 4 px the rows are 1, 2/3, 1/3, 0, the mean 1/2.
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert mask_iou(mask, top_half).tolist() == [1.0]
    assert mask_iou(1 - mask, top_half).tolist() == [0.0]


def test_iou_is_a_picture_s_own(top_half):
    masks = torch.cat([torch.zeros(1, 1, 4, 4), top_half.float() * 0.1, 0.9 - top_half.float() * 0.1])
    assert mask_iou(masks, top_half.expand(3, 1, 4, 4)).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_a_constant_mask_selects_nothing(top_half, level):
    foreground = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    foreground[:, :, :10, 3:60] = True
    result = stage_ious([torch.full((2, 1, 8, 8), level)], foreground)
    assert result.stages[0].iou == 0.0
    assert result.stages[0].inverted_iou == result.constant == pytest.approx(570 / 4096)


def test_a_picture_without_foreground_scores_nothing():
    foreground = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert stage_ious([torch.rand(1, 1, 4, 4), torch.ones(1, 1, 2, 2)], foreground).best.best == 0.0


def test_best_stage_in_either_polarity(top_half):
    left = torch.zeros(1, 1, 4, 4)
    left[..., :2] = 1.0
    result = stage_ious([left, 1 - top_half.float()], top_half)
    assert result.best == (4, 0.0, 1.0)
    assert result.stages[0].iou == result.stages[0].inverted_iou == pytest.approx(1 / 3)


def test_iou_errors(top_half):
    with pytest.raises(ValueError, match=r"foreground must be \(N, 1, S, S\) bool"):
        mask_iou(torch.rand(1, 1, 4, 4), top_half.float())
    with pytest.raises(ValueError, match=r"N = 1, got \(2, 1, 4, 4\)"):
        mask_iou(torch.rand(2, 1, 4, 4), top_half)
    with pytest.raises(ValueError, match="got none"):
        stage_ious([], top_half)


# Attributes


def test_foreground_on_white_is_what_is_drawn_and_masks_are_compared_with_it():
    """Truth is the mask of the drawn objects, put on white: nothing drawn there is white."""
    shapes = CaptionedShapes(20, 32)
    truth = torch.stack([shapes[i]["mask"] for i in range(20)]) > 0.5
    colour = torch.tensor([0.9, 0.1, -0.4])[:, None, None]
    images = torch.where(truth, colour, 0.95)  # white, but for the noise of a generator
    assert torch.equal(foreground_on_white(images), truth)
    assert stage_ious([truth.float()], foreground_on_white(images)).best.iou == 1.0
    assert foreground_on_white(images, threshold=0.01).all()
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 2\], got 3"):
        foreground_on_white(images, threshold=3)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(20, 1, 32, 32\)"):
        foreground_on_white(images[:, :1])


class Oracle(AttributeClassifier):
    """Knows the scenes that it is shown, by their pictures."""

    def __init__(self, shapes):
        super().__init__(shapes.image_size)
        self.pictures = torch.stack([shapes.image(i) for i in range(len(shapes))]).flatten(1)
        self.scenes = [shapes.attributes(i) for i in range(len(shapes))]

    def predict(self, images):
        nearest = torch.cdist(images.flatten(1), self.pictures).argmin(1).tolist()
        scenes = [self.scenes[i] for i in nearest]
        shown = [
            vars(scene.objects[0]) | {"background": scene.background, "texture": scene.texture} for scene in scenes
        ]
        return {name: torch.tensor([v.index(s[name]) for s in shown]) for name, v in ATTRIBUTES.items()}


def test_an_oracle_is_right_about_every_caption_of_real_pictures():
    shapes = CaptionedShapes(120, 16, split="test")
    assert any(len(shapes.attributes(i).objects) == 2 for i in range(120))
    pairs = [(shapes.image(i), caption) for i in range(120) for caption in shapes.captions(i)]
    images = torch.stack([image for image, _ in pairs])
    accuracy = attribute_accuracy(Oracle(shapes), images, [caption for _, caption in pairs])
    assert accuracy == dict.fromkeys(ATTRIBUTES, 1.0)


def test_only_what_captions_name_counts():
    shapes = CaptionedShapes(40, 16, max_objects=1)
    images = torch.stack([shapes.image(i) for i in range(40)])
    truth = [shapes.attributes(i).objects[0] for i in range(40)]
    captions = [f"a {COLOURS[(COLOURS.index(thing.colour) + 1) % 8]} {thing.shape}" for thing in truth[:30]]
    captions += [f"something {thing.colour} on a grey background" for thing in truth[30:]]
    grey = [shapes.attributes(i).background == "grey" for i in range(30, 40)]
    assert attribute_accuracy(Oracle(shapes), images, captions) == {
        "colour": 10 / 40,
        "shape": 1.0,
        "background": sum(grey) / 10,
    }
    with pytest.raises(ValueError, match="captions must be one per picture, 40, got 39"):
        attribute_accuracy(Oracle(shapes), images, captions[1:])


def test_chance_of_a_guess():
    assert ATTRIBUTE_CHANCE == {
        "colour": 1 / 8, "shape": 1 / 6, "size": 1 / 2, "place": 1 / 5, "background": 1 / 5, "texture": 1 / 4
    }  # fmt: skip
    assert set(named_attributes("a big red star at the top of a plain navy background")) == set(ATTRIBUTES)


def test_a_classifier_learns_from_real_pictures():
    state = torch.get_rng_state()
    classifier = train_attribute_classifier(32, steps=45, batch_size=32)
    assert torch.equal(torch.get_rng_state(), state)
    assert not classifier.training
    shapes = CaptionedShapes(300, 32, split="test", max_objects=1)
    images = torch.stack([shapes.image(i) for i in range(300)])
    accuracy = attribute_accuracy(classifier, images, [shapes.captions(i)[2] for i in range(300)])
    for name, floor in {"colour": 0.7, "size": 0.8, "place": 0.8, "background": 0.8}.items():
        assert accuracy[name] > floor, accuracy
    truth = torch.stack([shapes.mask(i) for i in range(300)]) > 0.5
    found = classifier.foreground(images)
    assert found.dtype == torch.bool
    iou = (found & truth).sum((1, 2, 3)) / (found | truth).sum((1, 2, 3))
    assert iou.mean() > 0.6


def test_a_classifier_is_drawn_by_its_seed():
    first, second, other = (train_attribute_classifier(16, seed=s, steps=2, batch_size=4) for s in (1, 1, 2))
    assert torch.equal(first.from_image.weight, second.from_image.weight)
    assert not torch.equal(first.from_image.weight, other.from_image.weight)


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_classifier_shapes_and_batches(side):
    images = torch.rand(300, 3, side, side)[: 300 if side == 16 else 2] * 2 - 1
    classifier = AttributeClassifier(side).eval()
    with torch.no_grad():
        logits = classifier(images)
    assert {name: logits.attributes[name].shape[1] for name in ATTRIBUTES} == {
        name: len(values) for name, values in ATTRIBUTES.items()
    }
    assert logits.foreground.shape == (len(images), 1, side, side)
    assert torch.equal(classifier.foreground(images), logits.foreground > 0)
    assert torch.equal(classifier.predict(images)["place"], logits.attributes["place"].argmax(1))


def test_classifier_errors():
    with pytest.raises(ValueError, match="power of two from 16, got 48"):
        AttributeClassifier(48)
    with pytest.raises(ValueError, match=r"images must be \(N, 3, 16, 16\), got \(1, 3, 32, 32\)"):
        AttributeClassifier(16)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="steps and batch_size must be at least 1, got 0 and 4"):
        train_attribute_classifier(16, steps=0, batch_size=4)
