"""DiffAugment against loops over pictures, one slice at a time, in float64."""

import pytest
import torch

from t2ilayers.training import DiffAugment


def pictures(n=6, side=16):
    return torch.rand(n, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def recolored(x, u):
    x = x + float(u[0]) - 0.5
    grey = x.sum(0) / 3
    x = grey + 2 * float(u[1]) * (x - grey)
    mean = x.sum() / x.numel()
    return mean + (float(u[2]) + 0.5) * (x - mean)


def translated(x, u):
    side = x.shape[-1]
    most = round(side / 8)
    down, right = (int(float(v) * (2 * most + 1)) - most for v in u)
    y = torch.zeros_like(x)
    for row in range(side):
        for column in range(side):
            if 0 <= row + down < side and 0 <= column + right < side:
                y[:, row + down, column + right] = x[:, row, column]
    return y


def cut(x, u):
    side = x.shape[-1]
    top, left = (int(float(v) * (side + 1)) - side // 4 for v in u)
    y = x.clone()
    y[:, max(top, 0) : max(top + side // 2, 0), max(left, 0) : max(left + side // 2, 0)] = 0
    return y


PARTS = {
    "color": lambda x, u: recolored(x, u[:3]),
    "translation": lambda x, u: translated(x, u[3:5]),
    "cutout": lambda x, u: cut(x, u[5:]),
}
# The least and the most that can be drawn, and what lies between.
BETWEEN = torch.rand(4, 7, generator=torch.Generator().manual_seed(2))
DRAWS = torch.cat([torch.zeros(1, 7), torch.full((1, 7), 1 - 2**-24), BETWEEN])


@pytest.mark.parametrize("policy", [("color",), ("translation",), ("cutout",), ("cutout", "color", "translation")])
@pytest.mark.parametrize("side", [16, 32])
def test_each_picture_changes_as_its_draws_say(policy, side):
    x = pictures(side=side)
    expected = []
    for picture, draws in zip(x, DRAWS, strict=True):
        for name, part in PARTS.items():
            picture = part(picture, draws) if name in policy else picture
        expected.append(picture)
    torch.testing.assert_close(DiffAugment(policy)(x, DRAWS), torch.stack(expected))


def test_everything_allowed_is_drawn_and_nothing_else():
    x = torch.zeros(4000, 1, 16, 16)
    x[:, :, 8, 8] = 1
    moved = DiffAugment(["translation"])
    places = {tuple(place.tolist()) for place in moved(x, moved.draw(4000)).nonzero()[:, 2:]}
    assert places == {(row, column) for row in range(6, 11) for column in range(6, 11)}
    holes = DiffAugment(["cutout"])(torch.ones_like(x), DiffAugment([]).draw(4000))
    sizes = {int(size) for size in (1 - holes).sum(dim=(1, 2, 3)).unique()}
    assert sizes == {a * b for a in (4, 5, 6, 7, 8) for b in (4, 5, 6, 7, 8)}


def test_gradients_pass_through_to_second_order():
    augment = DiffAugment(DiffAugment.names)
    x = pictures(2, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, DRAWS[2:4]), x)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, DRAWS[2:4]).square(), x)


def test_memory_format_and_dtype_stay():
    x = pictures().bfloat16().to(memory_format=torch.channels_last)
    y = DiffAugment(DiffAugment.names)(x, DRAWS)
    assert y.dtype is torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_errors_say_the_rule():
    with pytest.raises(ValueError, match=r"policy must name some of .*, got \['colour'\]"):
        DiffAugment(["colour"])
    with pytest.raises(ValueError, match=r"draws must be \(6, 7\), a row per picture, got \(6, 3\)"):
        DiffAugment([])(pictures(), torch.zeros(6, 3))
