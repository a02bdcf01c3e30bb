"""A frozen CLIP of transformers within GALIP: its image tower in a generator, and before a discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import DFAffineBlock, chain_parameters
from ..ops import Impl
from .dfgan import Affines, split, through

# Of the pictures that CLIP was trained with.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class CLIPFeatures(NamedTuple):
    """What :class:`CLIPImageEncoder` sees in pictures.

    Attributes:
        maps: patch tokens after some of the layers, ``(N, K, C, h, w)``.
        code: of the whole picture, ``(N, D)``, in the space of CLIP's sentences.
    """

    maps: Tensor
    code: Tensor


class CLIPImageEncoder(nn.Module):
    r"""A frozen CLIP that looks at pictures for a discriminator, and says whether they fit a sentence.

    .. math::
        v = \tfrac12 \big(\mathrm{resize}(\tfrac12 I + \tfrac12) + 1\big), \qquad
        t_0 = \mathrm{tokens}\big(\tfrac{v - \mu}{\sigma}\big), \quad t_{i+1} = \mathrm{layer}_i(t_i)

    ``maps`` are the patch tokens after the given layers, ``code`` is the projected class token after the last one.
    The second halving is in the published code: pixels reach CLIP in [0.5, 1], and published weights were trained
    with that.

    Args:
        clip: a ``CLIPModel`` or ``CLIPVisionModelWithProjection`` of transformers (extra ``clip``). Its parts are
            shared, not copied, and frozen.
        layers: after which of its layers the tokens are taken, in rising order, from 0.

    Shapes:
        ``images (N, 3, H, W)`` in [-1, 1], resized to CLIP's own size by nearest neighbour. Returns
        :class:`CLIPFeatures`: maps ``(N, K, C, h, w)`` and codes ``(N, D)``.

    Raises:
        ValueError: layers that CLIP does not have.

    Source: Tao et al., GALIP, arXiv 2301.12959, "CLIP-based discriminator", and its published code.
    """

    def __init__(self, clip: Any, layers: Sequence[int] = (1, 4, 8)) -> None:
        super().__init__()
        self.vision: Any = clip.vision_model
        self.projection: Any = clip.visual_projection
        self.layers = _check_layers("layers", layers, len(self.vision.encoder.layers))
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> CLIPFeatures:
        side = self.vision.embeddings.image_size
        mean, std = (images.new_tensor(numbers)[:, None, None] for numbers in (_MEAN, _STD))
        pixels = F.interpolate(images / 2 + 0.5, (side, side), mode="nearest")
        tokens = self.vision.pre_layrnorm(self.vision.embeddings(((pixels + 1) / 2 - mean) / std))
        maps = []
        for i, layer in enumerate(self.vision.encoder.layers):
            tokens = layer(tokens, None)
            if i in self.layers:
                maps.append(_as_map(tokens))
        code = self.projection(self.vision.post_layernorm(tokens[:, 0]))
        return CLIPFeatures(torch.stack(maps, dim=1), code)

    def extra_repr(self) -> str:
        return f"layers={self.layers}"


class CLIPMapper(nn.Module):
    r"""Features instead of a picture through the layers of a frozen CLIP, with prompts on the way.

    .. math::
        t_0 = \mathrm{norm}([\mathrm{class}, x] + \mathrm{position}), \quad
        t_{i+1} = \mathrm{layer}_i(t_i) \ \text{ or } \ \mathrm{layer}_i([t_i, p_k]) \text{ without its last token}

    The k-th prompt goes into the k-th of the given layers. CLIP's convolution of pictures, its last norm and its
    projection are not part of it.

    Args:
        clip: a CLIP of transformers (extra ``clip``), or its image tower. Its parts are shared, not copied, and
            frozen.
        prompted: the layers that are given a prompt, in rising order, from 0.

    Attributes:
        channels: C, the width of CLIP.
        patch_size: of CLIP's patches, in pixels.
        side: of the grid of patches.

    Shapes:
        ``x (N, C, side, side)``, ``prompts (N, P, C)``. Returns the shape of ``x``.

    Raises:
        ValueError: layers that CLIP does not have.

    Source: GALIP, arXiv 2301.12959, "prompt predictor" and "CLIP-ViT of the generator".
    """

    def __init__(self, clip: Any, prompted: Sequence[int] = range(1, 9)) -> None:
        super().__init__()
        vision = tower(clip)
        self.class_embedding: nn.Parameter = vision.embeddings.class_embedding
        self.positions: nn.Embedding = vision.embeddings.position_embedding
        self.norm: nn.Module = vision.pre_layrnorm
        self.layers: nn.ModuleList = vision.encoder.layers
        self.prompted = _check_layers("prompted", prompted, len(self.layers))
        self.channels = len(self.class_embedding)
        self.patch_size: int = vision.embeddings.patch_size
        self.side: int = vision.embeddings.image_size // self.patch_size
        self.requires_grad_(False)

    def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
        first = self.class_embedding.expand(len(x), 1, -1)
        tokens = self.norm(torch.cat([first, x.flatten(2).mT], dim=1) + self.positions.weight)
        for i, layer in enumerate(self.layers):
            if i in self.prompted:
                prompt = prompts[:, self.prompted.index(i), None]
                tokens = layer(torch.cat([tokens, prompt], dim=1), None)[:, :-1]
            else:
                tokens = layer(tokens, None)
        return _as_map(tokens)

    def extra_repr(self) -> str:
        return f"prompted={self.prompted}"


class BridgeBlock(nn.Module):
    r"""Residual block that convolves before it fuses a condition into features.

    .. math::
        y = \mathrm{shortcut}(x) + \mathrm{fuse}_2(\mathrm{conv}(\mathrm{fuse}_1(\mathrm{conv}(x), e)), e)

    Convolutions are 3x3; the shortcut is a 1x1 convolution where the width changes, else the identity. ``fuse`` is
    :class:`~t2ilayers.layers.DFAffineBlock`.

    Args:
        in_channels: channels of ``x``.
        hidden_channels: between the two convolutions.
        out_channels: channels of ``y``.
        cond_dim: D, the length of the condition.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, H, W)``, ``cond (N, D)``. Returns ``(N, C_out, H, W)``. ``affines``: see :class:`DFBlock`.

    Source: GALIP, arXiv 2301.12959, "fusion block" of the bridge feature predictor.

    Example:
        >>> BridgeBlock(8, 4, 8, cond_dim=16)(
        ...     torch.randn(2, 8, 7, 7), torch.randn(2, 16)
        ... ).shape
        torch.Size([2, 8, 7, 7])
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, cond_dim: int, *, impl: Impl = "auto"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.fuse1 = DFAffineBlock(hidden_channels, cond_dim, impl=impl)
        self.conv2 = nn.Conv2d(hidden_channels, out_channels, 3, padding=1)
        self.fuse2 = DFAffineBlock(out_channels, cond_dim, impl=impl)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, cond: Tensor, *, affines: Sequence[Affines | None] | None = None) -> Tensor:
        fuses, conds = (self.fuse1, self.fuse2), split(cond)
        affine1, affine2 = chain_parameters(fuses, conds) if affines is None else affines
        residual = self.fuse1(self.conv1(x), cond, affines=affine1)
        return self.shortcut(x) + self.fuse2(self.conv2(residual), cond, affines=affine2)


class CLIPAdapter(nn.Module):
    r"""Features through a frozen CLIP: a bridge into its space, prompts of the condition, and back.

    .. math::
        b = \mathrm{conv}_{5 \times 5}(\mathrm{blocks}(x, c)), \qquad
        y = \mathrm{conv}_{5 \times 5}\big(b + 0.1\, \mathrm{CLIP}(b, \mathrm{prompts}(c))\big)

    Args:
        clip: of transformers, or its image tower, shared and frozen; see :class:`CLIPMapper`.
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.
        cond_dim: D, the length of the condition.
        hidden_channels: within the four :class:`BridgeBlock`\ s.
        prompted: the layers of CLIP that are given a prompt, from 0.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, h, h)`` with h the side of CLIP's grid, ``cond (N, D)``. Returns ``(N, C_out, h, h)``.

    Source: GALIP, arXiv 2301.12959, "bridge feature predictor" and "prompt predictor".
    """

    def __init__(
        self,
        clip: Any,
        in_channels: int,
        out_channels: int,
        cond_dim: int,
        *,
        hidden_channels: int = 32,
        prompted: Sequence[int] = range(1, 9),
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.mapper = CLIPMapper(clip, prompted)
        width = self.mapper.channels
        self.blocks = nn.ModuleList(
            BridgeBlock(in_channels, hidden_channels, in_channels, cond_dim, impl=impl) for _ in range(4)
        )
        self.bridge = nn.Conv2d(in_channels, width, 5, padding=2)
        self.prompts = nn.Linear(cond_dim, len(self.mapper.prompted) * width)
        self.out = nn.Conv2d(width, out_channels, 5, padding=2)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        bridge = self.bridge(through(self.blocks, x, [cond] * len(self.blocks), BridgeBlock))
        prompts = self.prompts(cond).unflatten(1, (-1, self.mapper.channels))
        return self.out(bridge + 0.1 * self.mapper(bridge, prompts))


def tower(clip: Any) -> Any:
    """The image tower of a CLIP of transformers, which may be given in its place."""
    return getattr(clip, "vision_model", clip)


def _as_map(tokens: Tensor) -> Tensor:
    """``tokens (N, 1 + h * h, C)`` without the first, as ``(N, C, h, h)``."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].mT.reshape(len(tokens), -1, side, side)


def _check_layers(name: str, layers: Sequence[int], count: int) -> tuple[int, ...]:
    """``layers``, if they are some of ``count`` in rising order; ValueError if not."""
    chosen = tuple(layers)
    if not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= count:
        raise ValueError(f"{name} must be in rising order and below {count}, as many as CLIP has, got {chosen}")
    return chosen
