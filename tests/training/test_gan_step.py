"""The step of matching-aware GANs: with and without a text-image loss, on sentences and on classes."""

from copy import deepcopy

import pytest
import torch

from t2ilayers import SSAGAN, MatchingAwareDiscriminator, SSAGANConfig, SSAGenerator
from t2ilayers.data import BatchDataset, CaptionedShapes
from t2ilayers.losses import matching_aware_gradient_penalty, sentence_loss
from t2ilayers.training import (
    DAMSM,
    DiffAugment,
    EncoderStep,
    MatchingAwareConfig,
    MatchingAwareStep,
    SSAGANStep,
    StepConfig,
)

DATA = CaptionedShapes(64, image_size=32)
BATCHES = BatchDataset(DATA, 8, seed=0)


def make_model(**changes):
    torch.manual_seed(0)
    sizes = dict(image_size=32, ngf=2, ndf=2, mask_channels=4, vocab_size=len(DATA.vocabulary)) | changes
    return SSAGAN(SSAGANConfig(**sizes), DATA.vocabulary)


def run(step, count=2):
    losses = []
    for i in range(count):
        torch.manual_seed(i)
        losses.append(step(BATCHES[i], i))
    return losses


def test_without_a_text_image_loss_it_is_ssa_gans_step_with_that_loss_off():
    """And needs no image encoder; with frozen encoders nothing else is left of the difference."""
    model = make_model(image_encoder="conv")
    ssagan = SSAGANStep(model, StepConfig(text_encoder="frozen", damsm_weight=0.0))
    other = make_model()
    other.load_state_dict(model.state_dict(), strict=False)
    other.text_encoder.eval()
    plain = MatchingAwareStep(
        other.generator,
        other.discriminator,
        lambda batch: other.text_encoder(batch["tokens"], batch["lengths"]),
        MatchingAwareConfig(),
    )
    for theirs, ours in zip(run(ssagan), run(plain), strict=True):
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for name, value in plain.generator.state_dict().items():
        assert torch.equal(value, model.generator.state_dict()[name])
    assert torch.equal(plain.ema.module.fc.weight, ssagan.ema.module.fc.weight)


class Brightness:
    """A text-image loss: pictures are to be bright, whatever their caption."""

    name, weight = "brightness", 50.0

    def __init__(self):
        self.scale = torch.nn.Parameter(torch.ones(()))

    def parameters(self):
        return [self.scale]

    def __call__(self, fake, condition, batch):
        assert not self.scale.requires_grad
        assert len(fake) == len(condition) == len(batch["captions"])
        return -(self.scale * fake).mean()


def test_another_text_image_loss_and_classes_as_the_condition():
    torch.manual_seed(0)
    classes = torch.nn.functional.one_hot(torch.arange(64) % 16).float()
    judge = Brightness()
    step = MatchingAwareStep(
        SSAGenerator(32, ngf=2, cond_dim=16, mask_channels=4),
        MatchingAwareDiscriminator(32, ndf=2, cond_dim=16),
        lambda batch: classes[batch["class_ids"] % 64],
        MatchingAwareConfig(lr_generator=1e-2),
        text_image_loss=judge,
    )
    losses = run(step, 6)
    assert losses[-1]["generator/brightness"] < losses[0]["generator/brightness"]
    assert judge.scale.requires_grad
    assert judge.scale.grad is None


class GivenPairs(MatchingAwareStep):
    """The step that remembers its mismatched pairs."""

    def _mismatched(self, batch):
        self.pairs = super()._mismatched(batch)
        return self.pairs


@pytest.mark.parametrize(("word", "images", "captions"), [
    ("shifted", [0, 1], [1, 2]), ("wrapped", [0, 1, 2], [1, 2, 0]), ("rolled", [0, 1, 2], [2, 0, 1]),
])  # fmt: skip
def test_mismatched_pairs_of_published_code(word, images, captions):
    networks = SSAGenerator(16, ngf=2, mask_channels=4), MatchingAwareDiscriminator(16, ndf=2)
    step = GivenPairs(*networks, lambda batch: torch.ones(3, 256), MatchingAwareConfig(mismatched=word))
    words = torch.ones(3, 1).long()
    step({"image": torch.zeros(3, 3, 16, 16), "class_ids": torch.zeros(3).long(), "tokens": words}, 0)
    assert [t.tolist() for t in step.pairs] == [images, captions]


class OfHalfPictures(torch.nn.Module):
    """A discriminator that sees what an encoder made of pictures."""

    def __init__(self):
        super().__init__()
        self.inner = MatchingAwareDiscriminator(16, ndf=2)

    def features(self, seen):
        return self.inner.features(seen)

    def match(self, features, cond):
        return self.inner.match(features, cond)

    def forward(self, seen, cond):
        return self.inner(seen, cond)


@pytest.mark.parametrize("penalty", ["joint", "two-step"])
def test_the_penalty_is_taken_by_what_the_discriminator_sees(penalty):
    """With an encoder that halves and triples, the step is that of pictures which were encoded before."""

    def encoder(images):
        return 3 * torch.nn.functional.avg_pool2d(images, 2)

    def make(**options):
        torch.manual_seed(0)
        config = MatchingAwareConfig(penalty=penalty, lr_discriminator=1e-2)
        generator = SSAGenerator(32, ngf=2, cond_dim=256, mask_channels=4)
        return MatchingAwareStep(generator, OfHalfPictures(), lambda batch: torch.ones(8, 256), config, **options)

    seen = make(encoder=encoder)
    losses = run(seen, 1)[0]
    judge = make().discriminator
    images, cond = encoder(BATCHES[0]["image"]), torch.ones(8, 256)
    if penalty == "joint":  # the other is on updated weights
        expected = matching_aware_gradient_penalty(judge, images, cond)
        torch.testing.assert_close(losses["penalty/matching_aware"], expected.detach())
    assert losses["penalty/matching_aware"] > 0
    before, after = make().generator.state_dict(), seen.generator.state_dict()
    assert any(not torch.equal(value, after[key]) for key, value in before.items())


def test_what_is_frozen_stays_as_it_is():
    torch.manual_seed(0)
    generator = SSAGenerator(32, ngf=2, mask_channels=4)
    discriminator = MatchingAwareDiscriminator(32, ndf=2)
    frozen = [*generator.blocks[0].parameters(), *discriminator.blocks[0].parameters()]
    before = [p.requires_grad_(False).clone() for p in frozen]
    moving = [generator.fc.weight, discriminator.from_image.weight]
    starts = [p.detach().clone() for p in moving]
    step = MatchingAwareStep(
        generator, discriminator, lambda batch: torch.ones(8, 256), MatchingAwareConfig(penalty="two-step")
    )
    run(step)
    assert all(torch.equal(p, value) for p, value in zip(frozen, before, strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in frozen)
    kept = step.g_optimizer.state.keys() | step.d_optimizer.state.keys()
    assert kept.isdisjoint(frozen)
    assert kept.issuperset(moving)
    assert all(not torch.equal(p, start) for p, start in zip(moving, starts, strict=True))


def test_encoders_learn_without_words():
    step = EncoderStep(make_model(image_encoder="conv").encoders, lr=2e-3, words=False)
    first, *_, last = [step(BATCHES[0]) for _ in range(8)]
    assert set(first) == {"encoders/sentence_i2t", "encoders/sentence_t2i"}
    assert sum(last.values()) < sum(first.values())


@pytest.mark.parametrize("words", [True, False])
def test_an_image_encoder_learns_alone_what_the_text_encoder_says(words):
    pair = make_model(image_encoder="conv").encoders
    step = EncoderStep(pair, lr=2e-3, words=words)
    step(BATCHES[1])  # Adam now has momenta, which must not move what is frozen
    text, image = (
        {name: value.clone() for name, value in part.state_dict().items()}
        for part in (pair.text_encoder, pair.image_encoder)
    )
    batch = BATCHES[0]
    with torch.no_grad():
        sentence = pair.text_encoder.eval()(batch["tokens"], batch["lengths"]).sentence
        expected = sentence_loss(pair.image_encoder.train()(batch["image"]).code, sentence, batch["class_ids"])
    losses = step(batch, train_text=False)
    torch.testing.assert_close(losses["encoders/sentence_i2t"], expected.sentence_i2t)
    assert all(torch.equal(value, text[name]) for name, value in pair.text_encoder.state_dict().items())
    assert not torch.equal(pair.image_encoder.stages[0].weight, image["stages.0.weight"])
    step(batch)
    assert not torch.equal(pair.text_encoder.embedding.weight, text["embedding.weight"])
    assert pair.text_encoder.training


@pytest.mark.parametrize("words", [True, False])
def test_without_classes_all_others_are_negatives(words):
    """As the same step on a batch whose pictures have each a class of their own."""
    found = []
    for classes, ids in (
        (True, torch.zeros(8, dtype=torch.int64)),
        (True, torch.arange(8)),
        (False, torch.zeros(8)),
    ):
        step = EncoderStep(make_model(image_encoder="conv").encoders, lr=2e-3, words=words, classes=classes)
        torch.manual_seed(0)
        found.append(sum(step(BATCHES[0] | {"class_ids": ids}).values()).item())
    one_class, own_classes, without = found
    assert without == own_classes
    assert one_class < 1e-3 < own_classes  # nobody to be taken for


@pytest.mark.parametrize("text_encoder", ["frozen", "joint"])
def test_without_classes_a_gan_has_all_others_as_negatives(text_encoder):
    """As the same step on a batch whose pictures have each a class of their own, and not as in one class."""
    found = []
    for classes, ids in (
        (True, torch.zeros(8, dtype=torch.int64)),
        (True, torch.arange(8)),
        (False, torch.zeros(8, dtype=torch.int64)),
    ):
        model = make_model(image_encoder="conv", projection=True)
        config = StepConfig(text_encoder=text_encoder, contrast_weight=1.0, classes=classes)
        step = SSAGANStep(model, config)
        torch.manual_seed(1)
        found.append(step(BATCHES[0] | {"class_ids": ids}, 0))
    one_class, own_classes, without = found
    assert all(torch.equal(value, own_classes[name]) for name, value in without.items())
    for name in ("discriminator/contrast", "generator/contrast", "generator/damsm"):
        assert one_class[name] < own_classes[name]
    assert ("encoders/sentence_i2t" in without) == (text_encoder == "joint")


def test_damsm_without_words_is_what_sentences_say():
    pair = make_model(image_encoder="conv").encoders.eval()
    batch, fake = BATCHES[0], torch.rand(8, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        text = pair.text_encoder(batch["tokens"], batch["lengths"])
        found = [DAMSM(pair, 1.0, words=words)(fake, text, batch) for words in (False, True)]
        expected = sentence_loss(pair.images(fake), text.sentence, batch["class_ids"]).total
    torch.testing.assert_close(found[0], expected)
    assert found[1] > found[0]  # the half of words comes on top


@pytest.mark.parametrize("words", [True, False])
def test_joint_encoders_learn_by_what_the_generator_is_told_by(words):
    losses = SSAGANStep(make_model(image_encoder="conv"), StepConfig(words=words))(BATCHES[0], 0)
    assert ("encoders/words_i2t" in losses) == words
    assert {"encoders/sentence_i2t", "generator/damsm"} <= losses.keys()


@pytest.mark.parametrize("kind", ["ssagan", "plain", "encoders"])
def test_a_step_continues_from_its_state(kind):
    def make():
        model = make_model(image_encoder="conv")
        if kind == "ssagan":
            return SSAGANStep(model, StepConfig())
        if kind == "encoders":
            return EncoderStep(model.encoders, lr=1e-3)
        return MatchingAwareStep(
            model.generator, model.discriminator, lambda batch: torch.ones(8, 256), MatchingAwareConfig()
        )

    def take(step, i):
        torch.manual_seed(i)
        return step(BATCHES[i]) if kind == "encoders" else step(BATCHES[i], i)

    whole, first, second = make(), make(), make()
    take(first, 0)
    second.load_state_dict(first.state_dict())
    take(whole, 0)
    expected, losses = take(whole, 1), take(second, 1)
    assert all(torch.equal(value, expected[name]) for name, value in losses.items())
    part = "encoders" if kind == "encoders" else "ema"
    after, wanted = second.state_dict()[part], whole.state_dict()[part]
    assert all(torch.equal(value, wanted[key]) for key, value in after.items())


def test_the_names_in_a_checkpoint_stay():
    step = SSAGANStep(make_model(image_encoder="conv"), StepConfig())
    names = ["d_optimizer", "ema", "encoder_optimizer", "g_optimizer", "model"]
    assert sorted(step.state_dict()) == names
    assert step.state_dict()["model"].keys() == step.model.state_dict().keys()


def test_a_model_that_only_draws_is_not_trained():
    with pytest.raises(ValueError, match="needs a discriminator, got a model without one"):
        SSAGANStep(make_model(image_encoder="conv", ndf=None), StepConfig())
    with pytest.raises(ValueError, match="needs an image encoder, got a model without one"):
        SSAGANStep(make_model(), StepConfig())


@pytest.mark.parametrize(
    "change", [{"generator": "df"}, {"generator": "rat"}, {"generator": "ssa-unmasked"}], ids=str
)
def test_ssa_gans_step_trains_each_generator(change):
    model = make_model(image_encoder="conv", **change)
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    losses = run(SSAGANStep(model, StepConfig()), 4)  # gates and last layers start at 0: all move at the third
    assert all(value.isfinite() for step in losses for value in step.values())
    moved = [name for name, value in model.generator.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(list(model.generator.parameters()))


def test_the_projection_adds_the_inner_product_with_the_sentences_direction():
    torch.manual_seed(0)
    discriminator = MatchingAwareDiscriminator(16, ndf=2, projection=True).double()
    features, cond = torch.randn(3, 8, 4, 4, dtype=torch.float64), torch.randn(3, 256, dtype=torch.float64)
    code = torch.where(features > 0, features, 0.2 * features).flatten(1) @ discriminator.projection[2].weight.T
    expected = discriminator.head(features, cond) + (code * cond / cond.norm(dim=1, keepdim=True)).sum(1)
    torch.testing.assert_close(discriminator.match(features, cond), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(discriminator.code(features), code, rtol=1e-12, atol=1e-12)


def test_contrast_teaches_codes_to_find_their_sentences():
    def step_of(weight):
        model = make_model(image_encoder="conv", projection=True, ndf=8)
        config = StepConfig(contrast_weight=weight, lr_discriminator=4e-3, text_encoder="frozen", damsm_weight=0.0)
        return SSAGANStep(model, config)

    step = step_of(4.0)
    images, cond = BATCHES[0]["image"], step.model.text_encoder.eval()(BATCHES[0]["tokens"], BATCHES[0]["lengths"])
    discriminator = step.model.discriminator
    with torch.no_grad():
        code = discriminator.code(discriminator.features(images))
        expected = sentence_loss(code, cond.sentence, BATCHES[0]["class_ids"]).total
    first, *_, last = [step(BATCHES[0], i) for i in range(12)]
    torch.testing.assert_close(first["discriminator/contrast"], expected)
    assert last["discriminator/contrast"] < first["discriminator/contrast"]
    assert "generator/contrast" in last
    assert "discriminator/contrast" not in step_of(0.0)(BATCHES[0], 0)


@pytest.mark.parametrize("classes", [False, True])
def test_contrast_has_the_sentences_of_earlier_batches_as_negatives_also_after_a_checkpoint(classes):
    def make(queue=12):
        model = make_model(image_encoder="conv", projection=True)
        config = dict(contrast_weight=1.0, contrast_queue=queue, classes=classes)
        return SSAGANStep(model, StepConfig(text_encoder="frozen", damsm_weight=0.0, **config))

    step = make()
    text_encoder, discriminator = step.model.text_encoder.eval(), step.model.discriminator
    sentences = [text_encoder(BATCHES[i]["tokens"], BATCHES[i]["lengths"]).sentence for i in range(3)]
    run(step, 2)
    others = torch.cat([sentences[1], sentences[0][:4]])  # 12 of 16, newest first
    ids = torch.cat([BATCHES[1]["class_ids"], BATCHES[0]["class_ids"][:4]])
    with torch.no_grad():
        code = discriminator.code(discriminator.features(BATCHES[2]["image"]))
        given = {"class_ids": BATCHES[2]["class_ids"], "others_class_ids": ids} if classes else {}
        expected = sentence_loss(code, sentences[2], others=others, **given).total
    again = make()
    again.load_state_dict(deepcopy(step.state_dict()))
    losses = []
    for each in (step, again):
        torch.manual_seed(2)
        losses.append(each(BATCHES[2], 2))
    torch.testing.assert_close(losses[0]["discriminator/contrast"], expected)
    assert all(torch.equal(value, losses[1][name]) for name, value in losses[0].items())
    assert "queue" not in make(0).state_dict()


def test_the_discriminator_sees_changed_pictures_real_and_generated_and_the_text_image_loss_does_not():
    model = make_model(image_encoder="conv")
    policy = "color,translation,cutout"
    step = SSAGANStep(model, StepConfig(diff_augment=policy, text_encoder="frozen", lr_discriminator=1e-9))
    seen, judged, drawn = [], [], []
    features, encoder = model.discriminator.features, model.image_encoder
    model.discriminator.features = lambda images: seen.append(images.detach()) or features(images)
    encoder.register_forward_pre_hook(lambda _, given: judged.append(given[0].detach()))
    model.generator.register_forward_hook(lambda _, given, output: drawn.append(output.images.detach()))
    torch.manual_seed(5)
    step(BATCHES[0], 1)
    torch.manual_seed(5)
    augment, n = DiffAugment(policy.split(",")), len(BATCHES[0]["image"])
    torch.randn(n, model.generator.z_dim)
    fake = augment(drawn[0], augment.draw(n))
    real = augment(BATCHES[0]["image"], augment.draw(n))
    for images, expected in zip(seen, (real, fake, fake), strict=True):
        torch.testing.assert_close(images, expected)
    torch.testing.assert_close(judged[-1], drawn[0])


def test_contrast_needs_a_projection():
    model = make_model()
    with pytest.raises(ValueError, match="projection=True"):
        MatchingAwareStep(
            model.generator, model.discriminator, lambda batch: None, MatchingAwareConfig(contrast_weight=1.0)
        )
