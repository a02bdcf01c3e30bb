"""Every measure of "does the picture show its caption" must fall where captions are dealt to other pictures.

Pictures are real drawn scenes. The outside judge has encoders too simple to be wrong: mean colours of places of a
picture, and which words a caption has.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from t2ilayers.data import ATTRIBUTES, BatchDataset, CaptionedShapes
from t2ilayers.encoders import ConvImageEncoder, EncoderPair, LSTMTextEncoder
from t2ilayers.metrics import (
    AttributeClassifier,
    OutsideJudge,
    attribute_accuracy,
    conditional_frechet_distance,
    r_precision,
)
from t2ilayers.training import EncoderStep

TRAIN = CaptionedShapes(600, 32, max_objects=1)
TEST = CaptionedShapes(300, 32, split="test", max_objects=1)
SAMPLES = [TEST.sample(i, np.random.default_rng(i)) for i in range(len(TEST))]
IMAGES = torch.stack([sample["image"] for sample in SAMPLES])
CAPTIONS = [sample["caption"] for sample in SAMPLES]
SCRAMBLED = CAPTIONS[7:] + CAPTIONS[:7]


def places(images):
    return [F.adaptive_avg_pool2d(images, side) for side in (8, 4)]


def words(captions):
    rows = torch.zeros(len(captions), len(TRAIN.vocabulary))
    for row, caption in zip(rows, captions, strict=True):
        row[TRAIN.vocabulary.encode(caption)] = 1
    return rows


@pytest.fixture(scope="module")
def outside():
    images = torch.stack([TRAIN.image(i) for i in range(len(TRAIN))])
    captions = [TRAIN.captions(i) for i in range(len(TRAIN))]
    return OutsideJudge(places, words, image_size=32).fit([(images, captions)])


@pytest.fixture(scope="module")
def pair():
    """Trained for the seconds that it takes to tell colours."""
    torch.manual_seed(0)
    text = LSTMTextEncoder(len(TRAIN.vocabulary), embed_dim=32, cond_dim=32)
    pair = EncoderPair(text, ConvImageEncoder(32, cond_dim=32, width=16), TRAIN.vocabulary)
    step = EncoderStep(pair, lr=5e-3, words=False)
    batches = BatchDataset(TRAIN, 64, seed=0)
    for i in range(45):
        step(batches[i])
    return pair.eval()


def precision(judge, captions):
    with torch.no_grad():
        codes, sentences = judge.images(IMAGES), judge.sentences(captions)
    every = torch.arange(len(captions))
    return r_precision(codes, sentences, every, captions=captions, candidates=20).mean


@pytest.mark.parametrize("kind", ["outside", "pair"])
def test_r_precision(kind, request):
    judge = request.getfixturevalue(kind)
    right, wrong = (precision(judge, captions) for captions in (CAPTIONS, SCRAMBLED))
    assert wrong < 0.13  # 0.05 by chance; some captions fit several pictures
    assert right > max(0.18, 2 * wrong)


@pytest.mark.parametrize("kind", ["outside", "pair"])
def test_mean_cosine_of_a_picture_and_its_caption(kind, request):
    """What a CLIP score is, by another judge."""
    judge = request.getfixturevalue(kind)
    with torch.no_grad():
        right, wrong = (
            F.cosine_similarity(judge.images(IMAGES), judge.sentences(captions)).mean()
            for captions in (CAPTIONS, SCRAMBLED)
        )
    assert right > wrong + 0.1


def test_conditional_frechet_distance(outside):
    """Of pictures that are nearly the real ones. Scrambled, they are the same set: a plain FID sees nothing."""
    real = places(IMAGES)[1].flatten(1)
    drawn = real + 0.1 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    right, wrong = (
        conditional_frechet_distance(outside.sentences(CAPTIONS)[:, :16], real, pictures)
        for pictures in (drawn, drawn.roll(7, 0))
    )
    assert wrong > 3 * right


def test_attribute_accuracy():
    class Truth(AttributeClassifier):
        def predict(self, images):
            scenes = [TEST.attributes(i) for i in range(len(images))]
            shown = [vars(s.objects[0]) | {"background": s.background, "texture": s.texture} for s in scenes]
            return {name: torch.tensor([v.index(s[name]) for s in shown]) for name, v in ATTRIBUTES.items()}

    right, wrong = (attribute_accuracy(Truth(32), IMAGES, captions) for captions in (CAPTIONS, SCRAMBLED))
    assert set(right.values()) == {1.0}
    assert all(wrong[name] < 0.8 for name in right)
