"""Fréchet distances against closed forms and SciPy, streamed statistics against NumPy's, inception scores."""

import math
import pickle

import numpy as np
import pytest
import torch

from t2ilayers.metrics import GaussianStatistics, StreamingStatistics, frechet_distance, inception_score


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(samples, dim, seed):
    """Of rank ``min(samples - 1, dim)``."""
    return torch.from_numpy(
        np.cov(random(samples, dim, seed=seed).numpy() @ np.diag(np.arange(1, dim + 1)), rowvar=False)
    )


# Distance


@pytest.mark.parametrize("rotated", [False, True])
def test_commuting_gaussians_have_a_closed_form(rotated):
    first = torch.tensor([4.0, 1.0, 0.0, 9.0, 0.0], dtype=torch.float64)
    second = torch.tensor([1.0, 1.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    mu1, mu2 = random(5, seed=1), random(5, seed=2)
    basis = torch.linalg.qr(random(5, 5)).Q if rotated else torch.eye(5, dtype=torch.float64)
    expected = (mu1 - mu2).square().sum() + (first.sqrt() - second.sqrt()).square().sum()
    distance = frechet_distance(mu1, basis * first @ basis.T, mu2, basis * second @ basis.T)
    assert distance == pytest.approx(expected.item(), rel=1e-12)


def test_gaussians_on_two_lines():
    a, b, zero = random(64, seed=1), random(64, seed=2), torch.zeros(64)
    # The root of aa^T bb^T has the trace |a b|.
    expected = a @ a + b @ b - 2 * (a @ b).abs()
    assert frechet_distance(zero, torch.outer(a, a), zero, torch.outer(b, b)) == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "samples", [(80, 90), (8, 80), (8, 5)], ids=["full rank", "one deficient", "both deficient"]
)
def test_distance_is_scipy_s(samples):
    linalg = pytest.importorskip("scipy.linalg")
    sigma1, sigma2 = (covariance(n, 16, seed) for seed, n in enumerate(samples))
    mu1, mu2 = random(16, seed=3), random(16, seed=4)
    # SciPy's root of a singular product is off by the root of its rounding; the usual remedy is to lift both.
    lift = 0.0 if min(samples) > 16 else 1e-9
    root = linalg.sqrtm((sigma1 + lift * torch.eye(16)).numpy() @ (sigma2 + lift * torch.eye(16)).numpy())
    expected = (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * np.trace(root).real
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(
        expected.item(), rel=1e-5 if lift else 1e-10
    )


def test_distance_of_few_features_is_that_of_their_inner_products():
    """The covariances' roots have the trace of the singular values of X1 X2^T, which no rank can trouble."""
    first, second = random(9, 64, seed=1).numpy(), random(13, 64, seed=2).numpy() * np.linspace(0.1, 3, 64)
    one, two = first - first.mean(0), second - second.mean(0)
    shared = np.linalg.svd(one @ two.T, compute_uv=False).sum() / math.sqrt(8 * 12)
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + (one**2).sum() / 8 + (two**2).sum() / 12 - 2 * shared
    statistics = [torch.from_numpy(part) for x in (first, second) for part in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-12)


def test_a_gaussian_is_at_no_distance_from_itself_whatever_its_rank():
    for samples in (3, 30, 200):
        sigma = covariance(samples, 96, seed=0)
        assert frechet_distance(sigma[0], sigma, sigma[0], sigma) <= 1e-12 * sigma.trace()


def test_distance_is_symmetric_and_unmoved_by_rotation_and_translation():
    mu1, mu2, sigma1, sigma2 = random(20, seed=1), random(20, seed=2), covariance(9, 20, 3), covariance(40, 20, 4)
    distance = frechet_distance(mu1, sigma1, mu2, sigma2)
    assert frechet_distance(mu2, sigma2, mu1, sigma1) == pytest.approx(distance)
    turn = torch.linalg.qr(random(20, 20)).Q
    turned = frechet_distance(turn @ mu1 + 7, turn @ sigma1 @ turn.T, turn @ mu2 + 7, turn @ sigma2 @ turn.T)
    assert turned == pytest.approx(distance)


def test_distance_errors():
    mu, sigma = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2, 2\)"):
        frechet_distance(mu, torch.eye(2), mu, sigma)
    with pytest.raises(ValueError, match="got 3 and 2"):
        frechet_distance(mu, sigma, torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(mu, sigma, mu, sigma * torch.nan)


# Statistics


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_streamed_statistics_are_numpy_s(chunk, offset):
    features = random(101, 12) * torch.arange(1, 13) + offset
    streamed = StreamingStatistics(12)
    for part in features[torch.randperm(101, generator=torch.Generator().manual_seed(chunk))].split(chunk):
        streamed.update(part)
    statistics = streamed.compute("here")
    assert (statistics.count, statistics.label) == (101, "here")
    np.testing.assert_allclose(statistics.mu, features.numpy().mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.sigma, np.cov(features.numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_statistics_of_half_precision_are_summed_in_double():
    features = random(3000, 2).half() + 100
    streamed = StreamingStatistics(2)
    for part in features.split(50):
        streamed.update(part)
    np.testing.assert_allclose(
        streamed.compute().sigma, np.cov(features.double().numpy(), rowvar=False), rtol=1e-10
    )


def test_statistics_are_a_copy():
    streamed = StreamingStatistics(2)
    streamed.update(random(5, 2))
    first = streamed.compute()
    mu, sigma = first.mu.clone(), first.sigma.clone()
    streamed.update(random(5, 2, seed=1))
    assert torch.equal(first.mu, mu)
    assert torch.equal(first.sigma, sigma)


def test_streaming_errors():
    streamed = StreamingStatistics(3)
    streamed.update(torch.zeros(0, 3))
    streamed.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least 2 features, got 1"):
        streamed.compute()
    with pytest.raises(ValueError, match=r"must be \(b, 3\), got \(1, 4\)"):
        streamed.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="finite"):
        streamed.update(torch.full((1, 3), torch.inf))
    with pytest.raises(ValueError, match="dim must be at least 1"):
        StreamingStatistics(0)


def test_files_are_what_others_read_and_write(tmp_path):
    sigma = covariance(9, 4, 0)
    GaussianStatistics(sigma[0], sigma, 9, "clean").save(tmp_path / "ours.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["ours.npz"]
    with np.load(tmp_path / "ours.npz") as entries:  # as pytorch-fid does
        assert np.array_equal(entries["mu"][:], sigma[0])
        assert np.array_equal(entries["sigma"][:], sigma)
    ours = GaussianStatistics.load(tmp_path / "ours.npz")
    assert (ours.count, ours.label) == (9, "clean")
    assert torch.equal(ours.sigma, sigma)
    np.savez_compressed(tmp_path / "theirs.npz", mu=sigma[0].numpy(), sigma=sigma.numpy().astype(np.float32))
    theirs = GaussianStatistics.load(tmp_path / "theirs.npz")
    assert (theirs.count, theirs.label, theirs.sigma.dtype) == (None, "", torch.float64)
    assert torch.equal(theirs.mu, sigma[0])


class Hostile:
    def __reduce__(self):
        return print, ("a pickle ran",)


def test_files_that_hold_no_statistics(tmp_path, capsys):
    np.savez(tmp_path / "lacking.npz", mu=np.zeros(3))
    np.savez(tmp_path / "misshapen.npz", mu=np.zeros(3), sigma=np.eye(2))
    np.savez(tmp_path / "hostile.npz", mu=np.array([Hostile()], dtype=object), sigma=np.eye(1))
    np.savez(tmp_path / "infinite.npz", mu=np.zeros(2), sigma=np.full((2, 2), np.inf))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Hostile()))
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "misshapen.npz").read_bytes()[:200])
    for path in list(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=f"{path.name} holds no statistics"):
            GaussianStatistics.load(path)
    assert capsys.readouterr().out == ""
    with pytest.raises(FileNotFoundError):
        GaussianStatistics.load(tmp_path / "none.npz")


# Inception score


def test_score_of_known_cases():
    assert inception_score(torch.zeros(30, 7)) == (1.0, 0.0)
    surely = 2000.0 * torch.eye(8)  # so sure that other probabilities underflow
    assert inception_score(surely.repeat(10, 1)) == pytest.approx((8.0, 0.0))
    assert inception_score(surely.repeat_interleave(10, 0), splits=8) == pytest.approx(
        (1.0, 0.0)
    )  # one class each
    # Half of the pictures show one class, half cannot tell two: the marginal is (3/4, 1/4).
    logits = torch.tensor([[0.0, -2000.0], [0.0, 0.0]]).repeat(5, 1)
    expected = math.exp((math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2)
    assert inception_score(logits, splits=1).mean == pytest.approx(expected)


def test_score_is_the_formula():
    logits = 3 * random(25, 6)
    scores = []
    for part in np.array_split(logits.numpy(), 4):
        p = np.exp(part) / np.exp(part).sum(1, keepdims=True)
        scores.append(np.exp(np.mean([np.sum(row * np.log(row / p.mean(0))) for row in p])))
    score = inception_score(logits.float(), splits=4)
    assert score == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-5)


def test_score_errors():
    with pytest.raises(ValueError, match="splits must be 1 to N = 9, got 10"):
        inception_score(torch.zeros(9, 3))
    with pytest.raises(ValueError, match=r"\(N, K\), got \(9,\)"):
        inception_score(torch.zeros(9))
    with pytest.raises(ValueError, match="finite"):
        inception_score(torch.full((20, 3), torch.nan))
