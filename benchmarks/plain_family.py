"""Generators of the family as plain PyTorch, the peers of benchmarks/family.py.

The arithmetic, the names and the order of operations are those of the published code: affines and MLPs one by
one, RAT-GAN's cell before every affine, maps upsampled before they are worked on. Each loads the published keys.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    def __init__(self, cond_dim: int, hidden: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(cond_dim, hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, cond: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(cond)))


class Affine(nn.Module):
    def __init__(self, width: int, cond_dim: int, hidden: int) -> None:
        super().__init__()
        self.fc_gamma = MLP(cond_dim, hidden, width)
        self.fc_beta = MLP(cond_dim, hidden, width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        weight = self.fc_gamma(cond)[:, :, None, None].expand(x.size())
        bias = self.fc_beta(cond)[:, :, None, None].expand(x.size())
        return weight * x + bias


class Fuse(nn.Module):
    def __init__(self, width: int, cond_dim: int) -> None:
        super().__init__()
        self.affine0 = Affine(width, cond_dim, width)
        self.affine1 = Affine(width, cond_dim, width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return F.leaky_relu(self.affine1(F.leaky_relu(self.affine0(x, cond), 0.2), cond), 0.2)


class DFBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, cond_dim: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(c_in, c_out, 3, 1, 1)
        self.c2 = nn.Conv2d(c_out, c_out, 3, 1, 1)
        self.fuse1, self.fuse2 = Fuse(c_in, cond_dim), Fuse(c_out, cond_dim)
        self.c_sc = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2)
        shortcut = x if self.c_sc is None else self.c_sc(x)
        return shortcut + self.c2(self.fuse2(self.c1(self.fuse1(x, cond)), cond))


class DFGAN(nn.Module):
    """Of 2022."""

    def __init__(self, image_size: int, ngf: int, z_dim: int = 100, cond_dim: int = 256) -> None:
        super().__init__()
        sides = [2**i for i in range(3, image_size.bit_length())]
        widths = [8 * ngf, *(ngf * min(8, image_size // side) for side in sides)]
        self.fc = nn.Linear(z_dim, 8 * ngf * 16)
        self.GBlocks = nn.ModuleList(DFBlock(a, b, z_dim + cond_dim) for a, b in pairwise(widths))
        self.to_rgb = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(ngf, 3, 3, 1, 1), nn.Tanh())

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        x, cond = self.fc(z).view(len(z), -1, 4, 4), torch.cat([z, cond], 1)
        for block in self.GBlocks:
            x = block(x, cond)
        return self.to_rgb(x)


class Cell(nn.Module):
    def __init__(self, z_dim: int, cond_dim: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(cond_dim, 1024))
        self.U = nn.Parameter(torch.zeros(256, 1024))
        self.bias = nn.Parameter(torch.zeros(1024))
        self.noise2h, self.noise2c = nn.Linear(z_dim, 256), nn.Linear(z_dim, 256)

    def start(self, z: Tensor) -> None:
        self.state = self.noise2h(z), self.noise2c(z)

    def forward(self, cond: Tensor) -> Tensor:
        h, c = self.state
        gates = cond @ self.W + h @ self.U + self.bias
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        self.state = h, c
        return h


class RATBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, cell: Cell) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.lstm = cell
        self.c1 = nn.Conv2d(c_in, c_out, 3, 1, 1)
        self.c2 = nn.Conv2d(c_out, c_out, 3, 1, 1)
        for i, width in ((0, c_in), (1, c_in), (4, c_in), (2, c_out), (3, c_out), (5, c_out)):
            self.add_module(f"affine{i}", Affine(width, 256, 256))
        self.fea_l, self.fea_ll = nn.Linear(c_in, 256), nn.Linear(c_out, 256)
        self.c_sc = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h = x
        for i, conv in ((0, None), (1, self.c1), (2, None), (3, self.c2)):
            h = F.leaky_relu(self.get_submodule(f"affine{i}")(h, self.lstm(cond)), 0.2)
            h = h if conv is None else conv(h)
        return (x if self.c_sc is None else self.c_sc(x)) + self.gamma * h


class RATGAN(nn.Module):
    def __init__(self, image_size: int, ngf: int, z_dim: int = 100, cond_dim: int = 256) -> None:
        super().__init__()
        sides = [2**i for i in range(2, image_size.bit_length())]
        widths = [8 * ngf, *(ngf * min(8, image_size // side) for side in sides)]
        self.lstm = Cell(z_dim, cond_dim)
        self.fc = nn.Linear(z_dim, 8 * ngf * 16)
        self.blocks = len(sides)
        for i, (a, b) in enumerate(pairwise(widths)):
            self.add_module(f"block{i}", RATBlock(a, b, self.lstm))
        self.conv_img = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(ngf, 3, 3, 1, 1), nn.Tanh())

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        self.lstm.start(z)
        x = self.fc(z).view(len(z), -1, 4, 4)
        for i in range(self.blocks):
            x = F.interpolate(x, scale_factor=2) if i else x
            x = self.get_submodule(f"block{i}")(x, cond)
        return self.conv_img(x)


def normalized(kind: Callable[..., nn.Module], *arguments: int, **options: bool) -> nn.Module:
    return nn.utils.spectral_norm(kind(*arguments, **options))


class SPADE(nn.Module):
    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(width, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(labels, 128, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(128, width, 3, padding=1)
        self.mlp_beta = nn.Conv2d(128, width, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        xhat = self.param_free_norm(x)
        hidden = self.mlp_shared(F.interpolate(labels, size=x.shape[2:], mode="nearest"))
        return xhat * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class SPADEBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, labels: int) -> None:
        super().__init__()
        middle = min(c_in, c_out)
        self.conv_0 = normalized(nn.Conv2d, c_in, middle, 3, 1, 1)
        self.conv_1 = normalized(nn.Conv2d, middle, c_out, 3, 1, 1)
        self.norm_0, self.norm_1 = SPADE(c_in, labels), SPADE(middle, labels)
        self.conv_s: nn.Module | None = None
        if c_in != c_out:
            self.conv_s = normalized(nn.Conv2d, c_in, c_out, 1, bias=False)
            self.norm_s = SPADE(c_in, labels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        shortcut = x if self.conv_s is None else self.conv_s(self.norm_s(x, labels))
        h = self.conv_0(F.leaky_relu(self.norm_0(x, labels), 0.2))
        return shortcut + self.conv_1(F.leaky_relu(self.norm_1(h, labels), 0.2))


class SPADEGAN(nn.Module):
    def __init__(self, image_size: int, ngf: int, labels: int) -> None:
        super().__init__()
        names = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")
        self.side = image_size // 32
        self.fc = nn.Conv2d(labels, 16 * ngf, 3, padding=1)
        for name, (a, b) in zip(names, pairwise((16, 16, 16, 16, 8, 4, 2, 1)), strict=True):
            self.add_module(name, SPADEBlock(a * ngf, b * ngf, labels))
        self.names = names
        self.conv_img = nn.Conv2d(ngf, 3, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = self.fc(F.interpolate(labels, size=(self.side, self.side)))
        for name in self.names:
            x = self.get_submodule(name)(x, labels)
            if name not in ("G_middle_0", "up_3"):
                x = F.interpolate(x, scale_factor=2)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 0.2)))


class Normalized(nn.Module):
    """A convolution or Linear with one step of the power iteration at every call, and no bias unless asked."""

    def __init__(self, shape: tuple[int, ...], bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.register_buffer("u0", torch.zeros(1, shape[0]))
        self.register_buffer("sv0", torch.zeros(1))
        self.u0: Tensor
        self.sv0: Tensor

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix, eps=1e-6)
            u = F.normalize(v @ matrix.T, eps=1e-6)
            if self.training:
                self.u0.copy_(u)
        sigma = (v @ matrix.T @ u.T).squeeze()
        weight = self.weight / sigma
        if weight.dim() == 2:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[2] // 2)


class ClassNorm(nn.Module):
    def __init__(self, width: int, cond_dim: int) -> None:
        super().__init__()
        self.gain = Normalized((width, cond_dim), bias=False)
        self.bias = Normalized((width, cond_dim), bias=False)
        self.register_buffer("stored_mean", torch.zeros(width))
        self.register_buffer("stored_var", torch.ones(width))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        gain, bias = (1 + self.gain(cond))[:, :, None, None], self.bias(cond)[:, :, None, None]
        mean, var = self.get_buffer("stored_mean"), self.get_buffer("stored_var")
        return F.batch_norm(x, mean, var, None, None, self.training, 0.1, 1e-5) * gain + bias


class BigGANBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, cond_dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Normalized((c_out, c_in, 3, 3)), Normalized((c_out, c_out, 3, 3))
        self.conv_sc = Normalized((c_out, c_in, 1, 1))
        self.bn1, self.bn2 = ClassNorm(c_in, cond_dim), ClassNorm(c_out, cond_dim)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h = F.interpolate(F.relu(self.bn1(x, cond)), scale_factor=2)
        h = self.conv2(F.relu(self.bn2(self.conv1(h), cond)))
        return h + self.conv_sc(F.interpolate(x, scale_factor=2))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta, self.phi = (Normalized((width // 8, width, 1, 1), bias=False) for _ in range(2))
        self.g = Normalized((width // 2, width, 1, 1), bias=False)
        self.o = Normalized((width, width // 2, 1, 1), bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(x).flatten(2)
        phi, g = F.max_pool2d(self.phi(x), 2).flatten(2), F.max_pool2d(self.g(x), 2).flatten(2)
        beta = F.softmax(torch.bmm(theta.transpose(1, 2), phi), -1)
        o = self.o(torch.bmm(g, beta.transpose(1, 2)).unflatten(2, x.shape[2:]))
        return self.gamma * o + x


class FinalNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("stored_mean", torch.zeros(width))
        self.register_buffer("stored_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.get_buffer("stored_mean"), self.get_buffer("stored_var")
        return F.batch_norm(x, mean, var, self.gain, self.bias, self.training, 0.1, 1e-5)


class BigGAN(nn.Module):
    """For 128 px."""

    def __init__(self, ngf: int, classes: int) -> None:
        super().__init__()
        widths = [width * ngf for width in (16, 16, 8, 4, 2, 1)]
        self.shared = nn.Embedding(classes, 128)
        self.linear = Normalized((16 * ngf * 16, 20))
        self.blocks = nn.ModuleList(
            nn.ModuleList([BigGANBlock(a, b, 148), *([Attention(b)] if i == 3 else [])])
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.output_layer = nn.Sequential(FinalNorm(ngf), nn.ReLU(), Normalized((3, ngf, 3, 3)))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        embedded = self.shared(labels)
        first, *parts = z.split(20, 1)
        x = self.linear(first).view(len(z), -1, 4, 4)
        for layers, part in zip(self.blocks, parts, strict=True):
            block, *attention = layers  # type: ignore[misc]
            x = block(x, torch.cat([embedded, part], 1))
            for layer in attention:
                x = layer(x)
        return torch.tanh(self.output_layer(x))
