"""Encoders against the published figures, and the properties that training relies on."""

import pytest
import torch
from torch import Tensor

from t2ilayers.encoders import ConvImageEncoder, InceptionImageEncoder, LSTMTextEncoder
from t2ilayers.encoders.inception import InceptionV3Trunk

from published import data, figures, official_keys, weights


@pytest.fixture(scope="module")
def published_text() -> LSTMTextEncoder:
    encoder = LSTMTextEncoder(60).eval()
    shapes = {key.replace("embedding.", "encoder."): value.shape for key, value in encoder.state_dict().items()}
    state = {key.replace("encoder.", "embedding."): value for key, value in weights(shapes).items()}
    encoder.load_state_dict(state)
    return encoder


@pytest.fixture(scope="module")
def published_image() -> InceptionImageEncoder:
    encoder = InceptionImageEncoder()
    state = weights(official_keys()["image_encoder"])
    encoder.load_state_dict({k if k.startswith("emb_") else f"trunk.{k}": v for k, v in state.items()})
    return encoder


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


# --- text ---


def test_text_keys_and_sizes_are_the_published_ones() -> None:
    state = LSTMTextEncoder(5450).state_dict()
    ours = {key.replace("embedding.", "encoder."): list(value.shape) for key, value in state.items()}
    assert ours == official_keys()["text_encoder"]


def test_text_figures(published_text: LSTMTextEncoder) -> None:
    words, sentence = published_text(figures()["text.captions"], figures()["text.lengths"])
    close(words, figures()["text.words"])
    close(sentence, figures()["text.sentence"])


def test_text_lengths_come_in_any_order(published_text: LSTMTextEncoder) -> None:
    order = torch.tensor([2, 0, 3, 1])
    words, sentence = published_text(figures()["text.captions"][order], figures()["text.lengths"][order])
    close(words, figures()["text.words"][order])
    close(sentence, figures()["text.sentence"][order])


def test_text_sees_neither_padding_nor_its_amount(published_text: LSTMTextEncoder) -> None:
    captions, lengths = figures()["text.captions"], figures()["text.lengths"]
    alone = published_text(captions[2:3, :7], lengths[2:3])
    padded = captions[2:3].clone()
    padded[:, 7:] = 59
    longer = published_text(padded, lengths[2:3])
    torch.testing.assert_close(longer.words[:, :, :7], alone.words)
    torch.testing.assert_close(longer.sentence, alone.sentence)
    assert longer.words.shape == (1, 256, 18)
    assert not longer.words[:, :, 7:].any()


def test_text_sentence_is_both_ends(published_text: LSTMTextEncoder) -> None:
    words, sentence = published_text(figures()["text.captions"], figures()["text.lengths"])
    for n, length in enumerate(figures()["text.lengths"].tolist()):
        torch.testing.assert_close(sentence[n, :128], words[n, :128, length - 1])
        torch.testing.assert_close(sentence[n, 128:], words[n, 128:, 0])


def test_text_drops_embedding_values_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = LSTMTextEncoder(60, embed_dim=16, cond_dim=8)
    tokens, lengths = torch.arange(12).view(2, 6), torch.tensor([6, 6])
    assert not torch.equal(encoder(tokens, lengths).sentence, encoder(tokens, lengths).sentence)
    encoder.eval()
    assert torch.equal(encoder(tokens, lengths).sentence, encoder(tokens, lengths).sentence)


def test_text_embedding_starts_uniform() -> None:
    torch.manual_seed(0)
    weight = LSTMTextEncoder(500, embed_dim=100, cond_dim=8).embedding.weight.detach()
    assert float(weight.abs().max()) <= 0.1
    assert float(weight.std()) == pytest.approx(0.2 / 12**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 0}, r"vocab_size and embed_dim must be at least 1, got 0 and 300"),
        ({"vocab_size": 9, "embed_dim": 0}, r"must be at least 1, got 9 and 0"),
        ({"vocab_size": 9, "cond_dim": 7}, r"cond_dim must be even.*got 7; use 8"),
        ({"vocab_size": 9, "cond_dim": 0}, r"cond_dim must be even.*got 0; use 2"),
    ],
)
def test_text_settings(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSTMTextEncoder(**settings)


@pytest.mark.parametrize(
    ("tokens", "lengths", "error", "message"),
    [
        (
            torch.zeros(4, dtype=torch.int64),
            torch.ones(1, dtype=torch.int64),
            ValueError,
            r"got \(4,\) and \(1,\)",
        ),
        (torch.zeros(2, 4, dtype=torch.int64), torch.tensor([1]), ValueError, r"got \(2, 4\) and \(1,\)"),
        (torch.zeros(0, 4, dtype=torch.int64), torch.tensor([]).long(), ValueError, r"N and T at least 1"),
        (torch.zeros(1, 4, dtype=torch.int32), torch.tensor([4]), TypeError, r"int64, got torch.int32"),
        (torch.zeros(1, 4, dtype=torch.int64), torch.tensor([4.0]), TypeError, r"integers.*torch.float32"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0, 4]), ValueError, r"1\.\.T.*got 0\.\.4"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.tensor([1, 5]), ValueError, r"T = 4, got 1\.\.5"),
        (
            torch.tensor([[3, 9]]),
            torch.tensor([2]),
            ValueError,
            r"0\.\.8, got 3\.\.9; were the captions",
        ),
        (torch.tensor([[-1, 2]]), torch.tensor([2]), ValueError, r"0\.\.8, got -1\.\.2"),
    ],
)
def test_text_arguments(tokens: Tensor, lengths: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LSTMTextEncoder(9, embed_dim=4, cond_dim=4)(tokens, lengths)


# --- Inception ---


def test_image_keys_and_sizes_are_the_published_ones() -> None:
    state = InceptionImageEncoder().state_dict()
    ours = {key.removeprefix("trunk."): list(value.shape) for key, value in state.items()}
    assert ours == official_keys()["image_encoder"]


def test_image_figures(published_image: InceptionImageEncoder) -> None:
    with torch.no_grad():
        regions, code = published_image(data("opencimg", (4, 3, 256, 256), -1, 1))
    assert regions.shape == (4, 256, 17, 17)
    close(regions[:, ::8], figures()["image.regions"])
    close(code, figures()["image.code"])
    assert float(regions.norm()) == pytest.approx(float(figures()["image.regions.norm"]), rel=1e-3)


def test_image_is_resized_between_pixel_centres() -> None:
    """The figures above do not tell ``align_corners`` apart, so the resize is checked by its formula."""
    encoder = InceptionImageEncoder(cond_dim=4)
    seen: list[Tensor] = []
    handle = encoder.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    image = data("resize", (1, 3, 5, 7), -1, 1)
    with torch.no_grad():
        encoder(image)
    handle.remove()
    assert seen[0].shape == (1, 3, 299, 299)

    def neighbours(place: int, side: int) -> list[tuple[int, float]]:
        centre = min(max((place + 0.5) * side / 299 - 0.5, 0.0), side - 1.0)
        low = int(centre)
        return [(low, 1 - (centre - low)), (min(low + 1, side - 1), centre - low)]

    for y, x in ((0, 0), (31, 250), (150, 77), (298, 298), (200, 20)):
        expected = sum(a * b * float(image[0, 1, i, j]) for i, a in neighbours(y, 5) for j, b in neighbours(x, 7))
        assert float(seen[0][0, 1, y, x]) == pytest.approx(expected, abs=1e-5)


def test_image_trunk_is_frozen_and_lets_gradients_through(published_image: InceptionImageEncoder) -> None:
    encoder = published_image.train()
    assert encoder.training
    assert not any(module.training for module in encoder.trunk.modules())
    trainable = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert trainable == ["emb_features.weight", "emb_cnn_code.weight", "emb_cnn_code.bias"]
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    images = data("grad", (1, 3, 64, 64), -1, 1).requires_grad_()
    regions, code = encoder(images)
    (regions.square().sum() + code.square().sum()).backward()
    assert images.grad is not None
    # Every pixel reaches the features: the resize to 299 skips none at this size.
    assert float((images.grad != 0).float().mean()) > 0.99
    assert all(p.grad is None for p in encoder.trunk.parameters())
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    encoder.zero_grad()


def test_image_frozen_from_the_start_and_in_wrappers() -> None:
    encoder = InceptionImageEncoder(cond_dim=4)
    assert encoder.training
    assert not encoder.trunk.training
    torch.nn.Sequential(encoder).train()
    assert not encoder.trunk.Mixed_7c.training


def test_fresh_trunk_keeps_the_size_of_its_features() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        mixed_6e, pooled = InceptionV3Trunk().eval()(torch.randn(1, 3, 299, 299))
    assert 0.05 < float(mixed_6e.std()) < 20
    assert 0.05 < float(pooled.std()) < 20


def test_trunk_pools_as_plain_means(published_image: InceptionImageEncoder) -> None:
    """``pooled`` is the mean of the last features, whatever their grid."""
    last: list[Tensor] = []
    handle = published_image.trunk.Mixed_7c.register_forward_hook(lambda *args: last.append(args[2]))
    with torch.no_grad():
        mixed_6e, pooled = published_image.trunk(data("small", (1, 3, 107, 139), -1, 1))
    handle.remove()
    assert mixed_6e.shape == (1, 768, 5, 7)
    torch.testing.assert_close(pooled, last[0].flatten(2).double().mean(dim=2).float())


def test_inception_errors() -> None:
    encoder = InceptionImageEncoder(cond_dim=4)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(2, 1, 8, 8\).*expand"):
        encoder(torch.zeros(2, 1, 8, 8))
    with pytest.raises(TypeError, match=r"floating dtype.*torch.uint8.*127\.5"):
        encoder(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"H and W at least 75, got \(1, 3, 74, 99\).*299"):
        encoder.trunk(torch.zeros(1, 3, 74, 99))
    with pytest.raises(TypeError, match=r"torch.uint8"):
        encoder.trunk(torch.zeros(1, 3, 75, 75, dtype=torch.uint8))
    with pytest.raises(ValueError, match="cond_dim must be at least 1, got 0"):
        InceptionImageEncoder(cond_dim=0)


# --- the small encoder ---


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_conv_shapes_and_cost(image_size: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    encoder = ConvImageEncoder(image_size)
    with FlopCounterMode(display=False) as counter:
        regions, code = encoder(torch.zeros(2, 3, image_size, image_size))
    assert regions.shape == (2, 256, 8, 8)
    assert code.shape == (2, 256)
    assert counter.get_total_flops() / 2 < 0.15e9


def test_conv_depends_on_the_batch_while_it_trains_alone() -> None:
    torch.manual_seed(0)
    encoder = ConvImageEncoder(32, cond_dim=16, width=16).double()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64) * 2 - 1
    trained = encoder.train()(images)
    together, alone = encoder.eval()(images), encoder(images[1:2])
    torch.testing.assert_close(together.regions[1:2], alone.regions)
    torch.testing.assert_close(together.code[1:2], alone.code)
    assert not torch.allclose(trained.code, together.code)


def test_conv_regions_keep_their_places() -> None:
    """A change inside one cell of the grid moves the region there more than a region far away."""
    torch.manual_seed(0)
    encoder = ConvImageEncoder(64, cond_dim=16).eval()
    images = torch.zeros(1, 3, 64, 64)
    spot = images.clone()
    spot[:, 0, 50:54, 10:14] = 1  # grid row 6, column 1
    with torch.no_grad():
        change = (encoder(spot).regions - encoder(images).regions).norm(dim=1)[0]
    assert divmod(int(change.argmax()), 8) == (6, 1)


def _squares(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures of one bright square in one of four quarters and three colours, and the class of both."""
    images = torch.full((n, 3, 32, 32), -0.8)
    quarter = torch.randint(4, (n,), generator=generator)
    colour = torch.randint(3, (n,), generator=generator)
    shift = torch.randint(8, (n, 2), generator=generator)
    for i in range(n):
        top, left = 16 * int(quarter[i] // 2) + int(shift[i, 0]), 16 * int(quarter[i] % 2) + int(shift[i, 1])
        images[i, int(colour[i]), top : top + 8, left : left + 8] = 0.9
    return images, 3 * quarter + colour


def test_conv_code_learns_place_and_colour() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoder = ConvImageEncoder(32, cond_dim=12, width=16)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
    for _ in range(40):
        images, classes = _squares(48, generator)
        loss = torch.nn.functional.cross_entropy(encoder(images).code, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, classes = _squares(200, generator)
    encoder.eval()
    with torch.no_grad():
        accuracy = (encoder(images).code.argmax(dim=1) == classes).float().mean()
    assert float(accuracy) > 0.9  # chance is 1/12


@pytest.mark.parametrize(("image_size", "width"), [(32, 16), (32, 64), (64, 64)])
def test_conv_whitened_filters_answer_alike_and_apart(image_size: int, width: int) -> None:
    """To the pictures it was whitened with: no mean, no correlation, and one variance where these vary enough."""
    torch.manual_seed(0)
    blobs = torch.nn.functional.interpolate(torch.randn(64, 3, 9, 9), (image_size, image_size), mode="bicubic")
    images = (blobs + 0.1 * torch.randn(64, 3, image_size, image_size) + 0.3).clamp(-1, 1)
    encoder = ConvImageEncoder(image_size, width=width)
    first = encoder.stages[0]
    last = {key: value.clone() for key, value in encoder.state_dict().items() if not key.startswith("stages.0.")}
    encoder.whiten(images)
    answers = torch.nn.functional.conv2d(images.double(), first.weight.double(), first.bias.double(), stride=2)
    answers = answers.transpose(0, 1).flatten(1)  # (C, M)
    pairs = min(len(answers) // 2, 48)
    positive, negative = answers[:pairs], answers[pairs : 2 * pairs]
    close(positive, -negative)
    assert positive.mean(dim=1).abs().max() < 1e-4
    covariance = positive @ positive.T / positive.shape[1]
    variances = covariance.diagonal()
    assert (covariance - variances.diag()).abs().max() < 1e-3
    # 0.001 is added to the variance of patches, whose noise alone has 0.01 or, clamped, somewhat less.
    assert 0.85 < variances.min() <= variances.max() < 1
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in last.items())


def test_conv_whitening_takes_pictures_that_do_not_vary() -> None:
    encoder = ConvImageEncoder(32, width=16)
    encoder.whiten(torch.full((2, 3, 32, 32), 0.25))
    assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())
    with pytest.raises(ValueError, match=r"images must be \(N, 3, 32, 32\)"):
        encoder.whiten(torch.zeros(2, 3, 64, 64))


def test_conv_errors() -> None:
    with pytest.raises(ValueError, match=r"32, 64 or 128, got 256.*InceptionImageEncoder"):
        ConvImageEncoder(256)
    with pytest.raises(ValueError, match=r"multiple of 16, got 256 and 24"):
        ConvImageEncoder(32, width=24)
    with pytest.raises(ValueError, match=r"multiple of 16, got 0 and 64"):
        ConvImageEncoder(32, cond_dim=0)
    encoder = ConvImageEncoder(32, cond_dim=4, width=16)
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\), got \(1, 3, 64, 64\)"):
        encoder(torch.zeros(1, 3, 64, 64))
    with pytest.raises(TypeError, match=r"torch.uint8"):
        encoder(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert "image_size=32" in repr(encoder)
