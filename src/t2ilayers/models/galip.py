"""GALIP: a generator and a discriminator around a frozen CLIP.

Source: Tao et al., *GALIP: Generative Adversarial CLIPs for Text-to-Image Synthesis*, arXiv 2301.12959.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Conv2d, LeakyReLU, MatchingHead
from ..layers._reset import reset_parts
from ..ops import Impl
from ..ops._fast import channels_last, fastest_layout
from ._pictures import ToPicture
from .clip import CLIPAdapter, tower
from .dfgan import DFBlock, GeneratorOutput, check_inputs, through


class GALIPGenerator(nn.Module):
    r"""Noise and a sentence to a picture, through a frozen CLIP and one :class:`DFBlock` a scale.

    .. math:: h_0 = \mathrm{adapter}(\mathrm{fc}(z), c), \quad h_{i+1} = \mathrm{DFBlock}_i(h_i, c), \quad
        \mathrm{image} = \mathrm{conv}(\mathrm{lrelu}(h)), \qquad c = [z, e]

    ``adapter`` is :class:`CLIPAdapter`. The sides of the blocks are the powers of two above CLIP's grid and, at
    last, its own size: 8, 16, 32, 64, 128 and 224 px for 7 x 7 patches. The i-th from the end has
    ``ngf * min(8, 2^i)`` channels. There is no norm, dropout or tanh, so training and evaluation mode agree, and
    pictures may leave [-1, 1]: clamp them to show them.

    Args:
        clip: a CLIP of transformers (extra ``clip``), such as ``CLIPModel.from_pretrained(folder)``, or its image
            tower. Its parts are shared, not copied, and frozen.
        ngf: base width.
        z_dim: length of the noise.
        cond_dim: D, the length of the sentence.
        bridge_channels: before CLIP; half as many within the blocks there.
        prompted: the layers of CLIP that are given a prompt, from 0.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Attributes:
        image_size: S, that of CLIP.

    Shapes:
        ``z (N, z_dim)`` from N(0, I), ``cond (N, D)``. Returns :class:`GeneratorOutput`: images ``(N, 3, S, S)``.

    Raises:
        ValueError: layers that CLIP does not have, or shapes that do not fit.

    Source: arXiv 2301.12959 and its published code.
    """

    def __init__(
        self,
        clip: Any,
        ngf: int = 64,
        z_dim: int = 100,
        cond_dim: int = 512,
        *,
        bridge_channels: int = 64,
        prompted: Sequence[int] = range(1, 9),
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.adapter = CLIPAdapter(
            clip, bridge_channels, 8 * ngf, z_dim + cond_dim,
            hidden_channels=bridge_channels // 2, prompted=prompted, impl=impl,
        )  # fmt: skip
        self.image_size: int = tower(clip).embeddings.image_size
        self.z_dim = z_dim
        self.cond_dim = cond_dim
        self.impl: Impl = impl
        side = self.adapter.mapper.side
        powers = [2**i for i in range(self.image_size.bit_length()) if side < 2**i < self.image_size]
        sides = [*powers, self.image_size]
        widths = [ngf * min(8, 2**i) for i in reversed(range(len(sides)))]
        self.fc = nn.Linear(z_dim, bridge_channels * side * side)
        self.blocks = nn.ModuleList(
            DFBlock(c_in, c_out, z_dim + cond_dim, size=side, impl=impl)
            for side, c_in, c_out in zip(sides, [8 * ngf, *widths], widths, strict=False)
        )
        self.to_image = nn.Sequential(nn.LeakyReLU(0.2), ToPicture(widths[-1], 3, 3, padding=1))

    def forward(self, z: Tensor, cond: Tensor) -> GeneratorOutput:
        check_inputs(z, cond, self.z_dim, self.cond_dim)
        side, condition = self.adapter.mapper.side, torch.cat([z, cond], dim=1)
        x = fastest_layout(self.fc(z).unflatten(1, (-1, side, side)), self.impl)
        x = fastest_layout(self.adapter(x, condition), self.impl)
        x = through(self.blocks, x, [condition] * len(self.blocks))
        return GeneratorOutput(self.to_image(x).contiguous())

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, z_dim={self.z_dim}"


class CLIPBlock(nn.Module):
    r"""Residual block of a discriminator that adds another map of features.

    .. math::
        y = \mathrm{shortcut}(x) + g\, \mathrm{lrelu}(\mathrm{conv}(\mathrm{lrelu}(\mathrm{conv}(x)))) + b\, f

    Convolutions of the residual are 3x3 without bias; g and b are learned scalars that start at 0. The shortcut is
    a 1x1 convolution with bias where the width changes, else the identity.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``, and of ``f``.
        extracts: whether there is an ``f``, to be given to ``forward``.

    Shapes:
        ``x (N, C_in, H, W)``, ``f (N, C_out, H, W)`` or None. Returns ``(N, C_out, H, W)``.

    Source: GALIP, arXiv 2301.12959, "extraction block" of the discriminator.

    Example:
        >>> x = torch.randn(2, 8, 7, 7)
        >>> CLIPBlock(8, 8)(x, x).shape, CLIPBlock(8, 4, extracts=False)(x).shape
        (torch.Size([2, 8, 7, 7]), torch.Size([2, 4, 7, 7]))
    """

    def __init__(self, in_channels: int, out_channels: int, *, extracts: bool = True) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.residual = nn.Sequential(
            Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            LeakyReLU(0.2),
            Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LeakyReLU(0.2),
        )
        self.shortcut = nn.Identity() if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1)) if extracts else None

    def reset_parameters(self) -> None:
        """As a fresh block: new random weights, scalars of 0."""
        reset_parts(self)
        for scalar in (self.gamma, self.beta):
            if scalar is not None:
                nn.init.zeros_(scalar)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        if (features is None) != (self.beta is None):
            raise ValueError(
                f"features must be {'given' if features is None else 'None'} for a block with "
                f"extracts={self.beta is not None}"
            )
        y: Tensor = self.shortcut(x) + self.gamma * self.residual(x)
        return y if self.beta is None or features is None else y + self.beta * features


class GALIPDiscriminator(nn.Module):
    r"""One logit for "this is a real picture of this sentence", of what a frozen CLIP sees in the picture.

    .. math:: h_1 = m_0, \quad h_{k+1} = \mathrm{CLIPBlock}_k(h_k, m_k), \quad
        D(m, e) = \mathrm{head}(\mathrm{CLIPBlock}(h_K), e)

    ``m`` are the maps of :class:`CLIPImageEncoder`, the ``encoder`` of
    :class:`~t2ilayers.training.MatchingAwareStep`; ``head`` is :class:`~t2ilayers.layers.MatchingHead` with two
    kernels of 4x4.

    Args:
        in_channels: C, the width of CLIP.
        channels: of the features before the head.
        cond_dim: D, the length of the sentence.
        hidden_channels: within the head.
        maps: K, how many maps of CLIP.
        size: side of the maps, from 4.

    Shapes:
        :meth:`features`: ``maps (N, K, C, h, h)`` to ``(N, channels, h, h)``; :meth:`match`: these and
        ``cond (N, D)`` to logits ``(N,)``; ``forward(maps, cond)``: both.

    Raises:
        ValueError: maps smaller than the head's kernel, or shapes that do not fit.

    Source: arXiv 2301.12959 and its published code.

    Example:
        >>> discriminator = GALIPDiscriminator(16, channels=8, cond_dim=12)
        >>> discriminator(torch.randn(2, 3, 16, 7, 7), torch.randn(2, 12)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        in_channels: int = 768,
        channels: int = 512,
        cond_dim: int = 512,
        hidden_channels: int = 128,
        *,
        maps: int = 3,
        size: int = 7,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.maps = maps
        self.size = size
        self.blocks = nn.ModuleList(CLIPBlock(in_channels, in_channels) for _ in range(maps - 1))
        self.last = CLIPBlock(in_channels, channels, extracts=False)
        self.head = MatchingHead(channels, hidden_channels, cond_dim, size=size, kernel_size=4, padding=0)

    def features(self, maps: Tensor) -> Tensor:
        """What the head looks at: ``maps (N, K, C, h, h)`` to ``(N, channels, h, h)``.

        Example:
            >>> GALIPDiscriminator(16, channels=8).features(
            ...     torch.zeros(2, 3, 16, 7, 7)
            ... ).shape
            torch.Size([2, 8, 7, 7])
        """
        expected = (self.maps, self.in_channels, self.size, self.size)
        if maps.dim() != 5 or maps.shape[1:] != expected:
            raise ValueError(
                f"maps must be (N, {', '.join(map(str, expected))}), got {tuple(maps.shape)}; they come from "
                "CLIPImageEncoder, not from pictures"
            )
        first, *others = maps.unbind(1)
        x = channels_last(first)
        for block, features in zip(self.blocks, others, strict=True):
            x = block(x, features)
        return self.last(x)

    def match(self, features: Tensor, cond: Tensor) -> Tensor:
        """Score ``features (N, channels, h, h)`` against ``cond (N, D)``: logits ``(N,)``.

        Example:
            >>> discriminator = GALIPDiscriminator(16, channels=8, cond_dim=12)
            >>> discriminator.match(torch.zeros(2, 8, 7, 7), torch.zeros(2, 12)).shape
            torch.Size([2])
        """
        logits: Tensor = self.head(features, cond)
        return logits

    def forward(self, maps: Tensor, cond: Tensor) -> Tensor:
        return self.match(self.features(maps), cond)

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, maps={self.maps}, size={self.size}"
