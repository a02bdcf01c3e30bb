"""Another default device, as after ``torch.set_default_device("cuda")``: shown with "meta", which holds no values.

New weights go there, as of torch's own modules. What is given is answered where it is. And what is said to be on
the CPU (noise, samples, statistics) is made there.
"""

from functools import cache

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import BatchDataset, CaptionedShapes
from t2ilayers.encoders import ConvImageEncoder, EncoderPair, LSTMTextEncoder
from t2ilayers.interop import official
from t2ilayers.losses import (
    damsm_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    matching_aware_gradient_penalty,
    mismatched_pairs,
)
from t2ilayers.metrics import (
    PROTOCOLS,
    AttributeClassifier,
    OutsideJudge,
    StreamingStatistics,
    attribute_accuracy,
    frechet_distance,
    inception_score,
    mask_iou,
    r_precision,
    stage_ious,
    train_attribute_classifier,
)
from t2ilayers.models import DFGenerator

from subjects import SUBJECTS, inputs, make

SHAPES = CaptionedShapes(40, image_size=32)


@pytest.fixture(params=["with", "set"])
def elsewhere(request):
    """Calls a function with another default device, within ``with`` or after it was set."""

    def call(function):
        if request.param == "with":
            with torch.device("meta"):
                return function()
        torch.set_default_device("meta")
        try:
            return function()
        finally:
            torch.set_default_device(None)

    return call


def draw(seed):
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))


def small_gan():
    torch.manual_seed(0)
    config = SSAGANConfig(
        32, ngf=2, ndf=2, mask_channels=3, vocab_size=len(SHAPES.vocabulary), image_encoder="conv"
    )
    return SSAGAN(config, SHAPES.vocabulary)


def small_pair():
    torch.manual_seed(0)
    return EncoderPair(LSTMTextEncoder(len(SHAPES.vocabulary)), ConvImageEncoder(32), SHAPES.vocabulary)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in tensors(part)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_layer_answers_where_its_input_is(name, elsewhere):
    given, here = inputs(name), [t.detach().clone().requires_grad_(t.requires_grad) for t in inputs(name)]
    module, again = make(name), make(name)

    def run(module, given):
        results = []
        for training in (True, False):
            outputs = tensors(module.train(training)(*given))
            wanted = [t for t in (*given, *module.parameters()) if t.requires_grad]
            results += [*outputs, *torch.autograd.grad([t.sum() for t in outputs], wanted, allow_unused=True)]
        return results, dict(module.state_dict())

    expected, state = run(again, here)
    found, after = elsewhere(lambda: run(module, given))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(after, state, rtol=0, atol=0)


@pytest.mark.parametrize(
    "build", [*(SUBJECTS[name][0] for name in SUBJECTS), small_gan, small_pair],
    ids=[*SUBJECTS, "SSAGAN", "EncoderPair"],
)  # fmt: skip
def test_new_weights_are_made_there(build, elsewhere):
    assert {t.device.type for t in elsewhere(build).state_dict().values()} <= {"meta"}


def loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    return lambda: list(type(model).from_pretrained(tmp_path).state_dict().values())


def streamed(features):
    statistics = StreamingStatistics(features.shape[1])
    statistics.update(features)
    return statistics.compute()


A, B, IDS, MAP = draw(0), draw(1), torch.arange(4), draw(2).view(1, 1, 8, 8)
gan, pair = cache(lambda: small_gan().eval()), cache(lambda: small_pair().eval())
df_generator = cache(lambda: DFGenerator(16, 2, z_dim=16, cond_dim=16).eval())
judge = cache(lambda: AttributeClassifier(16).eval())


def outside_judge():
    def lengths(captions):
        return [[len(caption), caption.count("e")] for caption in captions]

    pairs = torch.stack([SHAPES.image(i) for i in range(12)]), [SHAPES.captions(i) for i in range(12)]
    return OutsideJudge(lambda images: [images], lengths, image_size=16).fit([pairs])


MADE = {
    "noise": lambda: gan().generate(["red"], seed=3),
    "truncated noise": lambda: gan().generate(["a red circle"], seed=3, truncation=0.5),
    "DFGenerator": lambda: df_generator()(A, B),
    "a sample": lambda: SHAPES[3],
    "a batch": lambda: BatchDataset(SHAPES, 4, seed=0)[1],
    "encoded captions": lambda: SHAPES.vocabulary.encode_batch(["red", "a blue ring"]),
    "codes": lambda: [pair().sentences(["a red circle"]), pair().images(SHAPES[0]["image"][None])],
    "statistics": lambda: list(vars(streamed(A)).values()),
    "FID": lambda: frechet_distance(*(t for x in (A, B) for t in (streamed(x).mu, streamed(x).sigma))),
    "Inception Score": lambda: inception_score(A, splits=2),
    "R-precision": lambda: r_precision(A, B, IDS, candidates=3, folds=1),
    "of captions": lambda: r_precision(A, B, IDS, captions=["a", "b", "c", "d"], candidates=3, folds=1),
    "mask IoU": lambda: mask_iou(MAP > 0, MAP > 1),
    "IoU of stages": lambda: str(stage_ious([MAP.sigmoid()], MAP > 1)),
    "prepared pictures": lambda: [p.prepare(SHAPES[0]["image"][None]) for p in PROTOCOLS.values()],
    "a trained judge": lambda: train_attribute_classifier(16, seed=1, steps=2, batch_size=4).state_dict(),
    "what it says": lambda: str(attribute_accuracy(judge(), MAP.repeat(1, 3, 2, 2), ["a red star"])),
    "the outside judge": lambda: outside_judge().look(torch.stack([SHAPES[0]["image"]])),
    "DAMSM": lambda: damsm_loss(
        A[:, :, None, None].expand(4, 16, 3, 3), A, B[:, :, None].expand(4, 16, 5), B, 0 * IDS + 5, IDS
    ),
    "hinge": lambda: [hinge_discriminator_loss(A[0], B[0], A[1]).total, hinge_generator_loss(A[0])],
    "penalty": lambda: matching_aware_gradient_penalty(
        lambda image, cond: (image.flatten(1).square().sum(1) + cond.square().sum(1)).sqrt(), A.view(4, 1, 4, 4), B
    ),
    "mismatched pairs": lambda: mismatched_pairs(IDS),
    "exported weights": lambda: official.export(gan().generator),
}  # fmt: skip


@pytest.mark.parametrize("what", MADE)
def test_what_is_said_to_be_on_the_cpu_is_made_there(what, elsewhere):
    expected = MADE[what]()  # first, for the models that it keeps
    found = elsewhere(MADE[what])
    for ours, theirs in zip(tensors(found), tensors(expected), strict=True):
        assert ours.device.type == "cpu"
        assert torch.equal(ours, theirs)
    if not tensors(expected):
        assert found == expected


@pytest.mark.parametrize("build", [small_gan, small_pair])
def test_a_folder_is_read_onto_the_cpu(build, elsewhere, tmp_path):
    load = loaded(build(), tmp_path)
    for ours, theirs in zip(elsewhere(load), load(), strict=True):
        assert torch.equal(ours, theirs)
