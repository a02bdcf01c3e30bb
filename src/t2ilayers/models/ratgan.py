"""RAT-GAN: the generator whose affines are conditioned on the states of a recurrent cell.

Source: Ye et al., *Recurrent Affine Transformation for Text-to-image Synthesis*, arXiv 2204.10482.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..layers._reset import reset_parts
from ..ops import Impl
from ..ops._fast import fastest_layout
from ._pictures import ToPicture, check_image_size
from .dfgan import DFBlock, GeneratorOutput, check_inputs, through


class RecurrentCondition(nn.Module):
    r"""States of an LSTM cell that starts from noise and reads the same sentence at every step.

    .. math::
        [i, f, g, o] = e W + h_{t-1} U + b, \quad
        c_t = \sigma(f)\, c_{t-1} + \sigma(i) \tanh(g), \quad h_t = \sigma(o) \tanh(c_t)

    with :math:`h_0` and :math:`c_0` each a Linear of the noise. The states do not depend on features, so a
    generator can have all of them before its first block.

    Args:
        z_dim: length of the noise.
        cond_dim: D, the length of the sentence.
        hidden_dim: K, the length of a state.

    Attributes:
        W: ``(D, 4 * K)``, with the inputs in rows, unlike PyTorch's.
        U: ``(K, 4 * K)``.
        bias: ``(4 * K,)``.

    Shapes:
        ``z (N, z_dim)``, ``cond (N, D)`` and the number of steps T. Returns all ``h`` and all ``c``, each
        ``(T, N, K)``.

    Source: arXiv 2204.10482, "Recurrent Affine Transformation".

    Example:
        >>> h, c = RecurrentCondition(12, 16, hidden_dim=8)(
        ...     torch.randn(2, 12), torch.randn(2, 16), 4
        ... )
        >>> h.shape, c.shape
        (torch.Size([4, 2, 8]), torch.Size([4, 2, 8]))
    """

    def __init__(self, z_dim: int = 100, cond_dim: int = 256, hidden_dim: int = 256) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(cond_dim, 4 * hidden_dim))
        self.U = nn.Parameter(torch.empty(hidden_dim, 4 * hidden_dim))
        self.bias = nn.Parameter(torch.empty(4 * hidden_dim))
        self.noise2h = nn.Linear(z_dim, hidden_dim)
        self.noise2c = nn.Linear(z_dim, hidden_dim)
        self._start()

    def _start(self) -> None:
        bound = len(self.U) ** -0.5
        for parameter in (self.W, self.U, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def reset_parameters(self) -> None:
        """As a fresh cell: new random weights."""
        reset_parts(self)
        self._start()

    def forward(self, z: Tensor, cond: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        h, c = self.noise2h(z), self.noise2c(z)
        given = cond @ self.W + self.bias  # the same at every step
        hs, cs = [], []
        for _ in range(steps):
            i, f, g, o = (given + h @ self.U).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hs.append(h)
            cs.append(c)
        return torch.stack(hs), torch.stack(cs)


class RATGenerator(nn.Module):
    r"""Noise and a sentence to a picture, every affine conditioned on a state of its own.

    .. math:: h_0 = \mathrm{fc}(z), \quad h_{i+1} = \mathrm{DFBlock}_i(h_i, s_{4i}, \dots, s_{4i + 3}), \quad
        \mathrm{image} = \tanh(\mathrm{conv}(\mathrm{lrelu}(h)))

    :class:`~t2ilayers.models.DFGenerator` of 2020, where the states :math:`s_t` of one
    :class:`RecurrentCondition` take the place of the sentence. Training and evaluation mode agree. The published
    code keeps the cell's state between two calls; here every call starts it from its own noise.

    Args:
        image_size: S, a power of two from 16.
        ngf: base width.
        z_dim: length of the noise.
        cond_dim: D, the length of the sentence.
        affines: in a row before each convolution: 2, or 3, the form that was published for flowers.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``z (N, z_dim)`` from N(0, I), ``cond (N, D)``. Returns :class:`GeneratorOutput`: images ``(N, 3, S, S)``
        in [-1, 1].

    Raises:
        ValueError: a size that is no power of two, or shapes that do not fit.

    Source: arXiv 2204.10482 and its published code.

    Example:
        >>> generator = RATGenerator(image_size=32, ngf=4)
        >>> generator(torch.randn(2, 100), torch.randn(2, 256)).images.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int = 256,
        ngf: int = 64,
        z_dim: int = 100,
        cond_dim: int = 256,
        *,
        affines: Literal[2, 3] = 2,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_image_size(image_size)
        self.image_size = image_size
        self.z_dim = z_dim
        self.cond_dim = cond_dim
        self.affines = affines
        self.impl: Impl = impl
        sides = [2**i for i in range(2, image_size.bit_length())]  # 4, 8, ..., image_size
        widths = [ngf * min(8, image_size // side) for side in sides]
        self.condition = RecurrentCondition(z_dim, cond_dim)
        self.fc = nn.Linear(z_dim, 8 * ngf * 4 * 4)
        self.blocks = nn.ModuleList(
            DFBlock(c_in, c_out, 256, 256, upsample=side > 4, affines=affines, gated=True, impl=impl)
            for side, c_in, c_out in zip(sides, [8 * ngf, *widths], widths, strict=False)
        )
        self.to_image = nn.Sequential(nn.LeakyReLU(0.2), ToPicture(widths[-1], 3, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, cond: Tensor) -> GeneratorOutput:
        check_inputs(z, cond, self.z_dim, self.cond_dim)
        each = 2 * self.affines
        states = self.condition(z, cond, each * len(self.blocks))[0].unbind()
        x = fastest_layout(self.fc(z).unflatten(1, (-1, 4, 4)), self.impl)  # (N, 8·ngf, 4, 4)
        x = through(self.blocks, x, [states[i : i + each] for i in range(0, len(states), each)])
        return GeneratorOutput(self.to_image(x).contiguous())

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, z_dim={self.z_dim}, affines={self.affines}"
