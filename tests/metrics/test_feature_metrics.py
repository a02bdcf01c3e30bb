"""Measures of features against plain loops in float64, closed forms, and what they are in the limits."""

import math

import numpy as np
import pytest
import torch

from t2ilayers.metrics import (
    _neighbours,
    conditional_frechet_distance,
    data_copying,
    density_coverage,
    frechet_distance,
    kernel_distance,
    nearest_features,
    prompt_diversity,
    vendi_score,
)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moments(x):
    return x.mean(0), torch.from_numpy(np.atleast_2d(np.cov(x.numpy(), rowvar=False)))


# Kernel distance


def test_kernel_distance_is_the_plain_loop():
    x, y = random(7, 3), random(7, 3, seed=1) + 0.3

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(kernel(part[i], part[j]) for part in (x, y) for i, j in pairs if i != j) / 42
    between = sum(kernel(x[i], y[j]) for i, j in pairs) / 49
    distance = kernel_distance(x, y)
    assert distance.mean == pytest.approx(within - 2 * between, rel=1e-12)
    assert distance.std == 0.0


def test_kernel_distance_of_two_points_is_in_closed_form():
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    expected = (5 / 3 + 1) ** 3 + (2 / 3 + 1) ** 3 - 2 * (2 / 3 + 1) ** 3
    assert kernel_distance(a.expand(9, 3), b.expand(12, 3)).mean == pytest.approx(expected)


def test_kernel_distance_has_no_bias_by_the_number_of_pictures():
    x, y = random(4000, 6), random(4000, 6, seed=1)
    few = kernel_distance(x, y, subset_size=10, subsets=2000)
    many = kernel_distance(x, y, subset_size=1000, subsets=20)
    assert abs(few.mean) < 4 * few.std / math.sqrt(2000)
    assert abs(many.mean) < 0.005 < few.std
    assert many == kernel_distance(x, y, subset_size=1000, subsets=20)


# Neighbours


def test_density_and_coverage_are_the_plain_loops():
    x, y = random(30, 4), random(20, 4, seed=1) * 0.8 + 0.3
    radii = [sorted(float((x[i] - x[j]).norm()) for j in range(30) if j != i)[2] for i in range(30)]
    inside = [[float((x[i] - y[j]).norm()) <= radii[i] for j in range(20)] for i in range(30)]
    result = density_coverage(x, y, neighbours=3)
    assert result.density == pytest.approx(sum(map(sum, inside)) / (3 * 20))
    assert result.coverage == pytest.approx(sum(map(any, inside)) / 30)
    assert 0 < result.coverage < 1


def test_density_and_coverage_of_one_distribution_are_as_the_paper_derives():
    n, m, k = 1500, 1000, 5
    result = density_coverage(random(n, 8), random(m, 8, seed=1), neighbours=k)
    missed = math.prod((n - i) / (m + n - i) for i in range(1, k + 1))
    assert result.density == pytest.approx(1, abs=0.06)
    assert result.coverage == pytest.approx(1 - missed, abs=0.02)


def test_one_mode_is_dense_and_covers_little():
    x = torch.cat([random(100, 4) + 20 * mode for mode in range(5)])
    one_mode = density_coverage(x, random(500, 4, seed=1))
    assert one_mode.density > 0.8
    assert one_mode.coverage <= 0.2


def test_rows_are_taken_in_chunks_that_change_nothing(monkeypatch):
    x, y, z = random(50, 4), random(41, 4, seed=1), random(33, 4, seed=2)
    whole = density_coverage(x, y), data_copying(y, x, z), nearest_features(y, x)
    monkeypatch.setattr(_neighbours, "_ROWS", 7)
    again = density_coverage(x, y), data_copying(y, x, z), nearest_features(y, x)
    assert whole[:2] == again[:2]
    assert all(map(torch.equal, whole[2], again[2]))


def test_nearest_feature_of_a_copy_is_at_no_distance_far_from_zero():
    x = random(40, 16) + 1e5
    nearest = nearest_features(x[[3, 17]], x)
    assert nearest.distances.tolist() == [0, 0]
    assert nearest.indices.tolist() == [3, 17]


def test_data_copying_counts_pairs():
    train, held_out, drawn = random(30, 3), random(20, 3, seed=1), random(25, 3, seed=2)
    drawn[:5], held_out[:2] = train[:5], train[7:9]  # ties at no distance
    own, unseen = (
        [min(float((row - other).norm()) for other in train) for row in rows] for rows in (drawn, held_out)
    )
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a in own for b in unseen]
    assert data_copying(drawn, train, held_out) == pytest.approx(sum(pairs) / len(pairs))
    assert data_copying(train, train, held_out + 9) == 1.0
    assert data_copying(drawn + 99, train, held_out) == 0.0


# Diversity


@pytest.mark.parametrize("shape", [(9, 20), (40, 6)], ids=["few pictures", "many pictures"])
def test_vendi_score_is_of_the_kernel_s_eigenvalues(shape):
    x = random(*shape)
    directions = x / x.norm(dim=1, keepdim=True)
    values = np.linalg.eigvalsh((directions @ directions.T).numpy() / len(x))
    values = values[values > 1e-12]
    assert vendi_score(x) == pytest.approx(math.exp(-(values * np.log(values)).sum()))


def test_vendi_score_counts_what_has_nothing_in_common():
    assert vendi_score(torch.eye(8)[[0, 0, 0, 3, 3, 3, 7, 7, 7]]) == pytest.approx(3)
    assert vendi_score(5 * torch.eye(8)[[0] * 6 + [1] * 2]) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


def test_prompt_diversity_is_the_plain_loop():
    x, prompts = random(9, 5), list("abacabdcb")
    means = []
    for prompt in "abc":
        rows = [x[i] / x[i].norm() for i in range(9) if prompts[i] == prompt]
        pairs = [1 - float(a @ b) for n, a in enumerate(rows) for b in rows[n + 1 :]]
        means.append(sum(pairs) / len(pairs))
    assert prompt_diversity(x, prompts) == pytest.approx(sum(means) / 3)
    assert prompt_diversity(x[[0, 0, 1, 1]], "aabb") == pytest.approx(0, abs=1e-12)


# Conditional Fréchet distance


def test_conditional_frechet_distance_is_the_paper_s_formula():
    linalg = pytest.importorskip("scipy.linalg")
    c = random(200, 3)
    x = c @ random(3, 4, seed=1) + random(200, 4, seed=2)
    y = c @ random(3, 4, seed=3) + 0.5 * random(200, 4, seed=4) + 0.7
    joint = [np.cov(torch.cat([part, c], 1).numpy(), rowvar=False) for part in (x, y)]
    inverse = np.linalg.inv(joint[0][4:, 4:])
    left = [s[:4, :4] - s[:4, 4:] @ inverse @ s[4:, :4] for s in joint]
    moved = joint[0][:4, 4:] - joint[1][:4, 4:]
    root = linalg.sqrtm(left[0])
    expected = (x.mean(0) - y.mean(0)).square().sum().item() + np.trace(moved @ inverse @ moved.T)
    expected += np.trace(left[0]) + np.trace(left[1]) - 2 * np.trace(linalg.sqrtm(root @ left[1] @ root)).real
    assert conditional_frechet_distance(c, x, y) == pytest.approx(expected, rel=1e-10)


def test_captions_that_say_nothing_leave_the_frechet_distance():
    x, y = random(50, 4), 2 * random(50, 4, seed=1) + 1
    constant = torch.ones(50, 3)
    assert conditional_frechet_distance(constant, x, y) == pytest.approx(
        frechet_distance(*moments(x), *moments(y)), rel=1e-10
    )


def test_pictures_of_other_captions_are_seen_by_the_conditional_distance_alone():
    c = random(400, 2)
    x = torch.cat([c, random(400, 1, seed=1)], 1)
    other = x[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert frechet_distance(*moments(x), *moments(other)) == pytest.approx(0, abs=1e-9)
    # Two of the three dimensions go from all explained to not at all: E|x - y|^2 = 1 + 1 for each.
    assert conditional_frechet_distance(c, x, x) == pytest.approx(0, abs=1e-9)
    assert conditional_frechet_distance(c, x, other) == pytest.approx(4, rel=0.15)


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: kernel_distance(x, x[:, :2]), "as many dimensions, got 5, 2"),
        (lambda x: kernel_distance(x, x[:1]), "generated must be at least 2, got 1"),
        (lambda x: kernel_distance(x, x, subset_size=1), "subset_size at least 2, got 100 and 1"),
        (lambda x: density_coverage(x, x, neighbours=4), r"1 to N - 1 = 3, got 4"),
        (lambda x: nearest_features(x[0], x), r"queries must be \(N, D\), got \(5,\)"),
        (lambda x: vendi_score(0 * x), "row of zeros"),
        (lambda x: prompt_diversity(x, "abcd"), "two pictures or more"),
        (lambda x: prompt_diversity(x, "abc"), "one per picture, 4, got 3"),
        (lambda x: conditional_frechet_distance(x[:, :3], x, x), r"at least C \+ 2 = 5 captions, got 4"),
        (lambda x: conditional_frechet_distance(x[:3, :1], x, x), "got 3, 4 and 4"),
    ],
)
def test_errors_name_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call(random(4, 5))
