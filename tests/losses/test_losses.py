"""Losses against plain float64 loops, finite differences, and the published figures."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from t2ilayers.encoders import InceptionImageEncoder, LSTMTextEncoder
from t2ilayers.losses import (
    DAMSMLoss,
    damsm_loss,
    gradient_penalty,
    hinge_discriminator_loss,
    hinge_generator_loss,
    matching_aware_gradient_penalty,
    mismatched_pairs,
    sentence_loss,
)

from published import data, figures, official_keys, weights

# --- hinge ---


def test_hinge_terms() -> None:
    real, fake, mismatched = [0.5, 2.0, -1.0], [-2.0, 0.25], [1.5]
    loss = hinge_discriminator_loss(torch.tensor(real), torch.tensor(fake), torch.tensor(mismatched))
    terms = [
        sum(max(0.0, 1 - x) for x in real) / 3,
        sum(max(0.0, 1 + x) for x in fake) / 2,
        sum(max(0.0, 1 + x) for x in mismatched),
    ]
    assert [x.item() for x in loss] == pytest.approx(terms)
    assert loss.total.item() == pytest.approx(terms[0] + (terms[1] + terms[2]) / 2)
    assert hinge_generator_loss(torch.tensor(fake)).item() == pytest.approx(1.75 / 2)


def test_hinge_without_mismatched_weighs_fakes_fully() -> None:
    loss = hinge_discriminator_loss(torch.tensor([0.0]), torch.tensor([2.0]))
    assert loss.mismatched is None
    assert loss.total.item() == 1 + 3


def test_hinge_of_no_mismatched_pairs_is_zero_not_nan() -> None:
    none = torch.zeros(0, requires_grad=True)
    loss = hinge_discriminator_loss(torch.tensor([0.0]), torch.tensor([2.0]), none)
    assert loss.total.item() == 1 + 3 / 2
    loss.total.backward()
    assert none.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hinge_sums_half_logits_in_float32(dtype: torch.dtype) -> None:
    logits = torch.full((2048,), -64.0, dtype=dtype)  # the sum, 133,120, is beyond float16
    loss = hinge_discriminator_loss(logits, logits, -logits)
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == 65 + 65 / 2
    assert hinge_generator_loss(logits).item() == 64


def test_hinge_errors() -> None:
    some, none = torch.zeros(2), torch.zeros(0)
    with pytest.raises(ValueError, match=r"real must hold.*got shape \(0,\)"):
        hinge_discriminator_loss(none, some)
    with pytest.raises(ValueError, match=r"fake must hold"):
        hinge_generator_loss(none)
    with pytest.raises(TypeError, match=r"mismatched must be.*torch.int64"):
        hinge_discriminator_loss(some, some, torch.zeros(2).long())


# --- mismatched pairs ---


def _pairs_by_loop(classes: list[int], captions: list[list[int]] | None) -> list[tuple[int, int]]:
    n, pairs = len(classes), []
    for i in range(n):
        for j in ((i + k) % n for k in range(1, n)):
            if classes[i] != classes[j] and (captions is None or captions[i] != captions[j]):
                pairs.append((i, j))
                break
    return pairs


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), min_size=2, max_size=2)),
        min_size=1,
        max_size=9,
    ),
    st.booleans(),
)
def test_mismatched_pairs(batch: list[tuple[int, list[int]]], with_tokens: bool) -> None:
    classes, captions = [c for c, _ in batch], [t for _, t in batch]
    tokens = torch.tensor(captions) if with_tokens else None
    images, texts = mismatched_pairs(torch.tensor(classes), tokens)
    assert images.dtype == texts.dtype == torch.int64
    found = list(zip(images.tolist(), texts.tolist(), strict=True))
    assert found == _pairs_by_loop(classes, captions if with_tokens else None)


def test_mismatched_pairs_errors() -> None:
    with pytest.raises(ValueError, match=r"\(N,\) with N >= 1, got shape \(0,\)"):
        mismatched_pairs(torch.zeros(0).long())
    with pytest.raises(ValueError, match=r"N = 2 of class_ids, got shape \(3, 4\)"):
        mismatched_pairs(torch.tensor([1, 2]), torch.zeros(3, 4).long())
    with pytest.raises(TypeError, match=r"class_ids must be integers, got torch.float32"):
        mismatched_pairs(torch.zeros(2))
    with pytest.raises(TypeError, match=r"tokens must be integers"):
        mismatched_pairs(torch.tensor([1, 2]), torch.zeros(2, 4))


# --- gradient penalty ---


class Critic(nn.Module):
    """A small smooth discriminator of both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 4 + 5, 7)
        self.last = nn.Linear(7, 1)

    def forward(self, images: Tensor, cond: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.cat([images.flatten(1), cond], dim=1))))[:, 0]


def _critic_and_inputs() -> tuple[Critic, Tensor, Tensor]:
    torch.manual_seed(0)
    return Critic().double(), torch.randn(3, 3, 2, 2).double(), torch.randn(3, 5).double()


def _penalty_by_differences(critic: Critic, images: Tensor, cond: Tensor, weight: float, power: float) -> float:
    step, total = 1e-5, 0.0
    flat = torch.cat([images.flatten(1), cond], dim=1)

    def logit(row: Tensor) -> float:
        with torch.no_grad():
            return float(critic(row[None, :12].view(1, 3, 2, 2), row[None, 12:]))

    for row in flat:
        squared = 0.0
        for k in range(len(row)):
            nudge = torch.zeros_like(row)
            nudge[k] = step
            squared += ((logit(row + nudge) - logit(row - nudge)) / (2 * step)) ** 2
        total += math.sqrt(squared) ** power
    return weight * total / len(flat)


@pytest.mark.parametrize(("weight", "power"), [(2.0, 6.0), (0.5, 2.0), (1.0, 3.0)])
def test_penalty_is_that_of_finite_differences(weight: float, power: float) -> None:
    critic, images, cond = _critic_and_inputs()
    penalty = matching_aware_gradient_penalty(critic, images, cond, weight=weight, power=power)
    expected = _penalty_by_differences(critic, images, cond, weight, power)
    assert penalty.dtype == torch.float64
    assert penalty.item() == pytest.approx(expected, rel=1e-6)


def test_penalty_gradients_are_those_of_finite_differences() -> None:
    critic, images, cond = _critic_and_inputs()
    matching_aware_gradient_penalty(critic, images, cond).backward()
    for parameter in (critic.first.weight, critic.last.weight):
        for index in ((0, 0), (0, 3)):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[index] += step
                values.append(matching_aware_gradient_penalty(critic, images, cond).item())
                with torch.no_grad():
                    parameter[index] -= step
            assert parameter.grad is not None
            expected = (values[0] - values[1]) / 2e-5
            assert float(parameter.grad[index]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("power", [2.0, 3.0, 6.0])
def test_penalty_of_a_zero_discriminator_is_safe(power: float) -> None:
    critic, images, cond = _critic_and_inputs()
    nn.init.zeros_(critic.last.weight)
    penalty = matching_aware_gradient_penalty(critic, images, cond, power=power)
    penalty.backward()
    assert penalty.item() == 0
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    assert gradients
    assert all(not g.any() for g in gradients)  # NaN counts as any


def test_penalty_reaches_no_inputs() -> None:
    critic, images, cond = _critic_and_inputs()
    sentence = cond.clone().requires_grad_()
    matching_aware_gradient_penalty(critic, images, sentence * 2).backward()
    assert sentence.grad is None
    with torch.no_grad():
        assert matching_aware_gradient_penalty(critic, images, cond).requires_grad


def test_penalty_is_float32_under_autocast() -> None:
    critic, images, cond = _critic_and_inputs()
    exact = matching_aware_gradient_penalty(critic, images, cond).item()
    critic, images, cond = critic.float(), images.float(), cond.float()
    plain = matching_aware_gradient_penalty(critic, images, cond)
    with torch.autocast("cpu", torch.bfloat16):
        cast = matching_aware_gradient_penalty(critic, images, cond)
        half = matching_aware_gradient_penalty(critic, images.bfloat16(), cond.half())
    assert cast.dtype == half.dtype == torch.float32
    assert torch.equal(cast, plain)  # not merely close: nothing ran in bfloat16
    assert plain.item() == pytest.approx(exact, rel=1e-4)
    assert half.item() == pytest.approx(plain.item(), rel=0.1)


def test_shared_forward_gives_the_same_penalty() -> None:
    critic, images, cond = _critic_and_inputs()
    inputs = (images.clone().requires_grad_(), cond.clone().requires_grad_())
    shared = gradient_penalty(critic(*inputs), inputs)
    torch.testing.assert_close(shared, matching_aware_gradient_penalty(critic, images, cond))


def test_penalty_errors() -> None:
    x, y = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    logits = x.sum(dim=1)
    with pytest.raises(ValueError, match=r"at least 2, got 1\.5"):
        gradient_penalty(logits, [x], power=1.5)
    with pytest.raises(ValueError, match=r"got shape \(2, 1\).*flatten"):
        gradient_penalty(logits[:, None], [x])
    with pytest.raises(ValueError, match=r"N = 2 of the logits, got shape \(4, 3\) as inputs\[1\]"):
        gradient_penalty(logits, [x, torch.ones(4, 3, requires_grad=True)])
    with pytest.raises(ValueError, match=r"inputs\[1\] does not require gradients"):
        gradient_penalty(logits, [x, torch.ones(2, 3)])
    with pytest.raises(ValueError, match=r"do not depend on inputs\[1\]"):
        gradient_penalty(logits, [x, y])
    with pytest.raises(ValueError, match=r"do not depend on any input"):
        gradient_penalty(logits.detach(), [x])
    with pytest.raises(ValueError, match=r"agree in N, got \(2, 3, 2, 2\) and \(3, 5\)"):
        matching_aware_gradient_penalty(Critic(), torch.zeros(2, 3, 2, 2), torch.zeros(3, 5))
    with pytest.raises(TypeError, match=r"images must be of a floating dtype, got torch.uint8"):
        matching_aware_gradient_penalty(Critic(), torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(2, 5))


# --- DAMSM ---


def _damsm_by_loop(
    regions: Tensor,
    code: Tensor,
    words: Tensor,
    sentence: Tensor,
    lengths: list[int],
    classes: list[int] | None,
    gammas: tuple[float, float, float],
) -> list[float]:
    n, gamma1, gamma2, gamma3 = len(code), *gammas

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b) / max(math.sqrt(float(a @ a) * float(b @ b)), 1e-8)

    def cross_entropy(table: list[list[float]]) -> float:
        total = 0.0
        for i, row in enumerate(table):
            allowed = [j for j in range(n) if j == i or classes is None or classes[i] != classes[j]]
            total += math.log(sum(math.exp(row[j]) for j in allowed)) - row[i]
        return total / n

    def both(table: list[list[float]]) -> list[float]:
        return [cross_entropy(table), cross_entropy([list(column) for column in zip(*table, strict=True)])]

    by_words, by_sentence = [], []
    for i in range(n):
        v = [regions[i, :, y, x] for y in range(regions.shape[2]) for x in range(regions.shape[3])]
        row_words, row_sentence = [], []
        for j in range(n):
            e = [words[j, :, t] for t in range(lengths[j])]
            share = []
            for place in v:
                exps = [math.exp(float(place @ word)) for word in e]
                share.append([x / sum(exps) for x in exps])
            total = 0.0
            for t, word in enumerate(e):
                exps = [math.exp(gamma1 * s[t]) for s in share]
                attended = sum((x / sum(exps) * place for x, place in zip(exps, v, strict=True)), 0 * v[0])
                total += math.exp(gamma2 * cosine(attended, word))
            row_words.append(gamma3 * math.log(total))
            row_sentence.append(gamma3 * cosine(code[i], sentence[j]))
        by_words.append(row_words)
        by_sentence.append(row_sentence)
    return both(by_words) + both(by_sentence)


def _features(n: int, d: int = 5, side: tuple[int, int] = (2, 3), t: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = [(n, d, *side), (n, d), (n, d, t), (n, d)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(
    ("lengths", "classes", "gammas"),
    [
        ([4, 1, 3, 2], None, (5.0, 5.0, 10.0)),
        ([4, 1, 3, 2], [3, 7, 3, 9], (4.0, 5.0, 10.0)),
        ([2, 2, 2], [1, 1, 1], (1.0, 2.0, 3.0)),
        ([3], None, (5.0, 5.0, 10.0)),
    ],
)
def test_damsm_is_the_formula(
    lengths: list[int], classes: list[int] | None, gammas: tuple[float, float, float]
) -> None:
    features = _features(len(lengths))
    loss = damsm_loss(
        *features,
        torch.tensor(lengths),
        None if classes is None else torch.tensor(classes),
        gamma1=gammas[0],
        gamma2=gammas[1],
        gamma3=gammas[2],
    )
    expected = _damsm_by_loop(*features, lengths, classes, gammas)
    assert [x.item() for x in loss] == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert loss.total.item() == pytest.approx(sum(expected), rel=1e-10, abs=1e-12)
    _, code, _, sentence = features
    ids = None if classes is None else torch.tensor(classes)
    alone = sentence_loss(code, sentence, ids, gamma3=gammas[2])
    assert [x.item() for x in alone] == pytest.approx(expected[2:], rel=1e-10, abs=1e-12)
    assert alone.total.item() == pytest.approx(sum(expected[2:]), rel=1e-10, abs=1e-12)


def test_further_sentences_are_negatives_of_images_alone_but_for_those_of_their_own() -> None:
    code, sentence, others = (torch.randn(n, 5, dtype=torch.float64) for n in (3, 3, 6))
    others[2] = 3 * sentence[1]  # the same direction is the same sentence
    ids, others_ids = [7, 8, 7], [7, 1, 1, 8, 1, 1]

    def cos(a: torch.Tensor, b: torch.Tensor) -> float:
        return (a @ b / (a.norm() * b.norm())).item()

    for classes in (False, True):
        expected = 0.0
        for i in range(3):
            among = [j for j in range(3) if j == i or not (classes and ids[j] == ids[i])]
            own = [math.exp(4 * cos(code[i], sentence[j])) for j in among]
            further = [
                math.exp(4 * cos(code[i], others[j]))
                for j in range(6)
                if (i, j) != (1, 2) and not (classes and others_ids[j] == ids[i])
            ]
            expected += math.log((sum(own) + sum(further)) / math.exp(4 * cos(code[i], sentence[i]))) / 3
        known = {"class_ids": torch.tensor(ids), "others_class_ids": torch.tensor(others_ids)} if classes else {}
        loss = sentence_loss(code, sentence, others=others, gamma3=4.0, **known)
        assert loss.sentence_i2t.item() == pytest.approx(expected, rel=1e-10)
        alone = sentence_loss(code, sentence, known.get("class_ids"), gamma3=4.0)
        assert torch.equal(loss.sentence_t2i, alone.sentence_t2i)  # others have no images
        none = sentence_loss(code, sentence, known.get("class_ids"), others=others[:0], gamma3=4.0)
        assert none.sentence_i2t.item() == pytest.approx(alone.sentence_i2t.item(), rel=1e-12)


def test_sentence_loss_refuses_what_does_not_fit() -> None:
    code = torch.ones(3, 4)
    for other in (torch.ones(3, 5), torch.ones(2, 4), torch.ones(4)):
        with pytest.raises(ValueError, match="alike"):
            sentence_loss(code, other)
    with pytest.raises(ValueError, match="class_ids"):
        sentence_loss(code, code, torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="floating"):
        sentence_loss(code.long(), code.long())
    ids = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match=r"others must be \(M, D\) with the D = 4"):
        sentence_loss(code, code, others=torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"others_class_ids must be \(2,\)"):
        sentence_loss(code, code, ids, others=torch.ones(2, 4), others_class_ids=ids)
    for only in ({"others": torch.ones(3, 4)}, {"class_ids": ids}):
        with pytest.raises(ValueError, match="got them without"):
            sentence_loss(code, code, others_class_ids=ids, **only)


def test_damsm_gradients() -> None:
    features = [x.requires_grad_() for x in _features(3, d=3, side=(1, 2), t=3)]
    lengths, classes = torch.tensor([3, 1, 2]), torch.tensor([1, 1, 2])
    assert torch.autograd.gradcheck(lambda *x: tuple(damsm_loss(*x, lengths, classes)), features)


def test_damsm_does_not_see_padding() -> None:
    regions, code, words, sentence = _features(3)
    lengths = torch.tensor([4, 1, 2])
    other = words.clone()
    other[1, :, 1:] = 100.0
    other[2, :, 2:] = 0.0  # as the text encoder pads: the norm of a word is zero
    other.requires_grad_()
    expected = damsm_loss(regions, code, words, sentence, lengths)
    actual = damsm_loss(regions, code, other, sentence, lengths)
    torch.testing.assert_close(torch.stack(actual), torch.stack(expected))
    actual.total.backward()
    assert other.grad is not None
    assert bool(other.grad.isfinite().all())
    assert not other.grad[1, :, 1:].any()
    assert not other.grad[2, :, 2:].any()


def test_damsm_of_zero_features_is_finite() -> None:
    features = [torch.zeros_like(x).float().requires_grad_() for x in _features(2)]
    loss = damsm_loss(*features, torch.tensor([4, 2]))
    assert loss.sentence_i2t.item() == pytest.approx(math.log(2))
    loss.total.backward()
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in features)


def test_damsm_is_float32_under_autocast() -> None:
    features = [x.float() for x in _features(4)]
    lengths = torch.tensor([4, 1, 3, 2])
    plain = damsm_loss(*features, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        cast = damsm_loss(*features, lengths)
        half = damsm_loss(*(x.bfloat16() for x in features), lengths)
    assert torch.equal(torch.stack(cast), torch.stack(plain))
    assert half.total.dtype == torch.float32


@pytest.fixture(scope="module")
def published_features() -> list[Tensor]:
    text = LSTMTextEncoder(60).eval()
    shapes = {k.replace("embedding.", "encoder."): v.shape for k, v in text.state_dict().items()}
    text.load_state_dict({k.replace("encoder.", "embedding."): v for k, v in weights(shapes).items()})
    image = InceptionImageEncoder()
    state = weights(official_keys()["image_encoder"])
    image.load_state_dict({k if k.startswith("emb_") else f"trunk.{k}": v for k, v in state.items()})
    with torch.no_grad():
        regions, code = image(data("opencimg", (4, 3, 256, 256), -1, 1))
        words, sentence = text(figures()["text.captions"], figures()["text.lengths"])
    return [regions / regions.std(), code / code.std(), words, sentence]


def test_damsm_figures(published_features: list[Tensor]) -> None:
    features = [x.clone().requires_grad_() for x in published_features]
    loss = damsm_loss(*features, figures()["text.lengths"], torch.tensor([3, 7, 3, 9]))
    assert isinstance(loss, DAMSMLoss)
    expected = figures()["damsm.losses_w0_w1_s0_s1"].tolist()
    assert [x.item() for x in loss] == pytest.approx(expected, rel=1e-3)
    loss.total.backward()
    for name, x in zip(("regions", "code", "words", "sentence"), features, strict=True):
        assert x.grad is not None
        assert float(x.grad.norm()) == pytest.approx(float(figures()[f"damsm.gradnorm.{name}"]), rel=1e-3)


def test_damsm_errors() -> None:
    regions, code, words, sentence = _features(3)
    lengths = torch.tensor([4, 1, 3])
    with pytest.raises(ValueError, match=r"code \(3, 4\).*one cond_dim"):
        damsm_loss(regions, code[:, :4], words, sentence, lengths)
    with pytest.raises(ValueError, match=r"regions \(3, 5, 6\)"):
        damsm_loss(regions.flatten(2), code, words, sentence, lengths)
    with pytest.raises(ValueError, match=r"class_ids \(2,\)"):
        damsm_loss(regions, code, words, sentence, lengths, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"no size 0"):
        damsm_loss(regions[:0], code[:0], words[:0], sentence[:0], lengths[:0])
    with pytest.raises(ValueError, match=r"T = 4, got 1\.\.5"):
        damsm_loss(regions, code, words, sentence, torch.tensor([1, 5, 2]))
    with pytest.raises(ValueError, match=r"T = 4, got 0\.\.2"):
        damsm_loss(regions, code, words, sentence, torch.tensor([1, 0, 2]))
    with pytest.raises(TypeError, match=r"words must be of a floating dtype, got torch.int64"):
        damsm_loss(regions, code, words.long(), sentence, lengths)
    with pytest.raises(TypeError, match=r"lengths must be integers"):
        damsm_loss(regions, code, words, sentence, lengths.float())
    with pytest.raises(TypeError, match=r"class_ids must be integers"):
        damsm_loss(regions, code, words, sentence, lengths, torch.zeros(3))
