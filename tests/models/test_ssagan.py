"""The generator, the discriminator, and the model as a user makes, saves and loads it."""

import json
import warnings

import pytest
import torch

from t2ilayers import SSAGAN, MatchingAwareDiscriminator, SSAGANConfig, SSAGenerator
from t2ilayers.encoders import Vocabulary
from t2ilayers.models.sampling import noise

VOCABULARY = Vocabulary.build(["a red circle", "a blue square"])


def tiny(**changes):
    torch.manual_seed(0)
    config = dict(image_size=16, ngf=4, ndf=4, mask_channels=4, vocab_size=len(VOCABULARY)) | changes
    return SSAGAN(SSAGANConfig(**config), VOCABULARY)


@pytest.mark.parametrize("size", [16, 32, 128])
def test_sizes_are_powers_of_two_from_16(size):
    z, cond = torch.randn(2, 100), torch.randn(2, 256)
    images, masks = SSAGenerator(size, ngf=2, mask_channels=4)(z, cond)
    assert images.shape == (2, 3, size, size)
    assert [m.shape[-1] for m in masks] == [4 * 2**i for i in range(len(masks))]
    assert masks[-1].shape == (2, 1, size, size)
    assert images.abs().max() <= 1
    discriminator = MatchingAwareDiscriminator(size, ndf=2)
    assert discriminator.features(images).shape[2:] == (4, 4)
    assert discriminator(images, cond).shape == (2,)


@pytest.mark.parametrize("kind", ["ssa", "ssa-unmasked"])
def test_the_affine_mlps_are_as_wide_as_the_config_says(kind, tmp_path):
    wide, narrow = (tiny(generator=kind, hidden_dim=hidden) for hidden in (256, 16))
    # Each of the hidden units of a norm's two MLPs has D weights in, a bias and C weights out.
    norms = [norm for block in wide.generator.blocks for norm in (block.norm1, block.norm2)]
    fewer = sum((256 - 16) * 2 * (256 + 1 + norm.num_features) for norm in norms)
    count = lambda model: sum(p.numel() for p in model.generator.parameters())  # noqa: E731
    assert count(wide) - count(narrow) == fewer
    narrow.save_pretrained(tmp_path)
    again = SSAGAN.from_pretrained(tmp_path)
    assert again.config.hidden_dim == 16
    assert torch.equal(
        again.generate(["a red circle"], seed=0).images, narrow.generate(["a red circle"], seed=0).images
    )


@pytest.mark.parametrize("size", [8, 24, 100])
def test_other_sizes_are_refused(size):
    for module in (SSAGenerator, MatchingAwareDiscriminator):
        with pytest.raises(ValueError, match=f"power of two from 16, got {size}"):
            module(size)


def test_given_masks_replace_predicted_ones():
    generator = SSAGenerator(16, ngf=2, mask_channels=4).eval()
    z, cond = torch.randn(2, 100), torch.randn(2, 256)
    given = torch.rand(2, 1, 8, 8)
    _, masks = generator(z, cond, [None, given, None])
    assert masks[1] is given
    with pytest.raises(ValueError, match="one entry per block, 3, got 2"):
        generator(z, cond, [None, given])


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    model = tiny()
    draw = lambda seed: model.generate(["a red circle"] * 2, seed=seed).images  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    z = noise(2, 100, 1, None)
    assert torch.equal(model.generate(["a red circle"] * 2, z=z).images, draw(1))


def test_generate_leaves_modes_and_running_statistics_as_they_were():
    model = tiny().train()
    model.text_encoder.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = model.generate(["a red circle"], seed=0).images
    assert model.generator.training
    assert not model.text_encoder.training
    assert not images.requires_grad
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_pictures_do_not_depend_on_how_many_are_drawn_at_a_time():
    model = tiny()
    captions = ["a red circle", "a blue square", "red", "square", "a circle"]
    given = [None, torch.rand(5, 1, 8, 8), None]
    whole = model.generate(captions, seed=1, masks=given)
    parts = model.generate(captions, seed=1, masks=given, batch_size=2)
    for a, b in zip((whole.images, *whole.masks), (parts.images, *parts.masks), strict=True):
        torch.testing.assert_close(a, b)
    images = parts.images.requires_grad_()  # not inference tensors: they may be fed to a critic that is trained
    images.square().sum().backward()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model.generate(captions, batch_size=0)


def test_a_compiled_generator_draws_the_same_without_a_graph_break():
    model = tiny()
    expected = model.generate(["a red circle"], seed=2).images
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own deprecations
        model.generator.compile(backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(model.generate(["a red circle"], seed=2).images, expected)


def test_truncated_noise_is_the_normal_distribution_cut():
    z = noise(200, 100, 0, 0.7)
    assert z.abs().max() <= 0.7
    # The standard deviation of N(0, 1) cut to [-t, t]: sqrt(1 - 2 t phi(t) / (2 Phi(t) - 1)).
    normal = torch.distributions.Normal(0.0, 1.0)
    t = torch.tensor(0.7)
    variance = 1 - 2 * t * normal.log_prob(t).exp() / (2 * normal.cdf(t) - 1)
    torch.testing.assert_close(z.std(), variance.sqrt(), rtol=0.01, atol=0)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    model = tiny(image_size=32, image_encoder="conv")
    model.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json", "model.safetensors", "vocabulary.json"
    ]  # fmt: skip
    again = SSAGAN.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert not again.training
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    captions = ["a blue square"]
    assert torch.equal(again.generate(captions, seed=4).images, model.generate(captions, seed=4).images)


def test_a_model_draws_without_what_only_training_needs(tmp_path):
    model = tiny(image_size=32, image_encoder="conv")
    model.save_pretrained(tmp_path / "model")
    drawing = SSAGAN.from_pretrained(tmp_path / "model", discriminator=False, image_encoder=False)
    assert {key.split(".")[0] for key in drawing.state_dict()} == {"generator", "text_encoder"}
    captions = ["a blue square"]
    assert torch.equal(drawing.generate(captions, seed=4).images, model.generate(captions, seed=4).images)
    drawing.save_pretrained(tmp_path / "small")
    again = SSAGAN.from_pretrained(tmp_path / "small")
    assert (again.discriminator, again.image_encoder) == (None, None)
    assert torch.equal(again.generate(captions, seed=4).images, model.generate(captions, seed=4).images)


def test_a_folder_that_is_no_model_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        SSAGAN.from_pretrained(tmp_path)
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"ngf": 8}, "misshapen key"),
        ({"vocab_size": 9}, "vocabulary"),
        ({"x": 1}, "unknown"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=f"(?s)not a complete model: .*{message}"):
            SSAGAN.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="must be a JSON object"):
        SSAGAN.from_pretrained(tmp_path)


def test_bad_arguments_are_refused_with_the_rule():
    model = tiny()
    with pytest.raises(ValueError, match="got one string"):
        model.generate("a red circle")
    with pytest.raises(ValueError, match="seed and truncation do not go with it"):
        model.generate(["red"], z=torch.randn(1, 100), seed=0)
    with pytest.raises(ValueError, match="truncation must be > 0"):
        model.generate(["red"], truncation=0.0)
    with pytest.raises(ValueError, match="rouge"):
        model.generate(["a rouge circle"])
    with pytest.raises(ValueError, match=r"z must be \(N, z_dim\) = \(1, 100\)"):
        model.generate(["red"], z=torch.randn(2, 100))
    with pytest.raises(ValueError, match="got none"):
        SSAGAN(model.config).generate(["red"])
    with pytest.raises(ValueError, match=r"must have config\.vocab_size = 5450 words, got 6"):
        SSAGAN(SSAGANConfig(16, ngf=2, ndf=2), VOCABULARY)
    with pytest.raises(ValueError, match="image_encoder must be"):
        tiny(image_encoder="resnet")
    with pytest.raises(ValueError, match=r"images must be \(N, 3, 16, 16\), got \(1, 3, 32, 32\)"):
        model.discriminator.features(torch.zeros(1, 3, 32, 32))


WITHOUT_MASKS = [{"generator": "df"}, {"generator": "rat"}, {"generator": "ssa-unmasked"}]


@pytest.mark.parametrize("change", WITHOUT_MASKS, ids=str)
def test_a_generator_without_masks_draws_is_saved_and_loaded(change, tmp_path):
    model = tiny(**change)
    assert model.mask_sides == []
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images, masks = model.generate(["a red circle", "a blue square"], seed=0, batch_size=1)
    assert images.shape == (2, 3, 16, 16)
    assert masks == ()
    assert not torch.equal(images[0], images[1])
    model.save_pretrained(tmp_path)
    again = SSAGAN.from_pretrained(tmp_path, discriminator=False)
    assert type(again.generator) is type(model.generator)
    assert torch.equal(again.generate(["a red circle", "a blue square"], seed=0, batch_size=1).images, images)
    with pytest.raises(ValueError, match="masks must be left out"):
        model.generate(["a red circle"], masks=[None] * 3)


def test_an_ssa_generator_without_predictors_acts_everywhere():
    generator, other = (SSAGenerator(16, ngf=2, mask_channels=channels).double() for channels in (4, 0))
    other.load_state_dict({k: v for k, v in generator.state_dict().items() if "mask_predictor" not in k})
    z, cond = torch.randn(2, 100).double(), torch.randn(2, 256).double()
    ones = [torch.ones(2, 1, side, side).double() for side in (4, 8, 16)]
    images, masks = other(z, cond)
    assert masks == ()
    torch.testing.assert_close(images, generator(z, cond, ones).images)
    half = [None, 0.5 * ones[1], None]
    torch.testing.assert_close(other(z, cond, half).images, generator(z, cond, [ones[0], half[1], ones[2]]).images)
