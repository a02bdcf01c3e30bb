"""PatchGAN: discriminators that judge every patch of a picture beside its label map, at several scales."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Conv2d, LeakyReLU, SpectralConv2d
from ..layers._reset import reset_parts
from ..ops._fast import channels_last
from ..ops._torch import exportable
from .spade import start_small


@exportable
class PatchOutput(NamedTuple):
    """What one :class:`PatchDiscriminator` says.

    Attributes:
        logits: ``(N, 1, h, w)``, one a patch.
        features: the maps on the way, of every stage but the last, for
            :func:`~t2ilayers.losses.feature_matching_loss`.
    """

    logits: Tensor
    features: tuple[Tensor, ...]


class PatchDiscriminator(nn.Module):
    r"""A logit for each patch of a map of channels.

    .. math:: f_1 = \mathrm{lrelu}(\mathrm{conv}(x)), \quad
        f_{i+1} = \mathrm{lrelu}(\mathrm{IN}(\mathrm{conv}(f_i))), \quad \mathrm{logits} = \mathrm{conv}(f_n)

    All convolutions are 4x4 with padding 2, of stride 2 but for the last two. Those between the first and the last
    are spectrally normalised and have no bias. IN is instance norm without affine.

    Args:
        in_channels: channels of the input.
        ndf: width of the first stage; every further one doubles it, up to ``8 * ndf``.
        stages: n, the number of stages before the last convolution.

    Shapes:
        ``x (N, C, H, W)``. Returns :class:`PatchOutput`.

    Source: Isola et al., arXiv 1611.07004; as in SPADE, arXiv 1903.07291.

    Example:
        >>> output = PatchDiscriminator(10, ndf=4)(torch.randn(2, 10, 32, 32))
        >>> output.logits.shape, [tuple(map.shape[1:]) for map in output.features]
        (torch.Size([2, 1, 7, 7]), [(4, 17, 17), (8, 9, 9), (16, 5, 5), (32, 6, 6)])
    """

    def __init__(self, in_channels: int, ndf: int = 64, *, stages: int = 4) -> None:
        super().__init__()
        widths = [ndf * min(8, 2**i) for i in range(stages)]
        self.stages = nn.ModuleList([nn.Sequential(Conv2d(in_channels, ndf, 4, 2, padding=2), LeakyReLU(0.2))])
        for i in range(1, stages):
            stride = 2 if i < stages - 1 else 1
            convolution = SpectralConv2d(widths[i - 1], widths[i], 4, stride, padding=2, bias=False)
            self.stages.append(nn.Sequential(convolution, nn.InstanceNorm2d(widths[i]), LeakyReLU(0.2)))
        self.last = Conv2d(widths[-1], 1, 4, padding=2)

    def forward(self, x: Tensor) -> PatchOutput:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return PatchOutput(self.last(x), tuple(features))


class MultiscaleDiscriminator(nn.Module):
    r"""PatchGANs on a picture and its label map, at full size, half size, and so on.

    .. math:: D_k(I, s) = \mathrm{patch}_k(\mathrm{pool}^k([s, I]))

    ``pool`` is the mean of 3x3 pixels in steps of 2; at the border, of those that there are.

    Args:
        label_channels: L, the channels of the label map.
        ndf: base width of each :class:`PatchDiscriminator`.
        scales: how many there are.
        stages: of each.

    Shapes:
        ``images (N, 3, H, W)`` in [-1, 1], ``labels (N, L, H, W)``. Returns a list of :class:`PatchOutput`, one
        for each scale, from full size on. A loss of several scales is the mean of theirs.

    Raises:
        ValueError: shapes that do not fit.

    Source: Wang et al., *pix2pixHD*, arXiv 1711.11585; as in SPADE, arXiv 1903.07291.

    Example:
        >>> discriminator = MultiscaleDiscriminator(7, ndf=4)
        >>> outputs = discriminator(
        ...     torch.zeros(2, 3, 32, 32), torch.zeros(2, 7, 32, 32)
        ... )
        >>> [output.logits.shape for output in outputs]
        [torch.Size([2, 1, 7, 7]), torch.Size([2, 1, 5, 5])]
    """

    def __init__(self, label_channels: int = 184, ndf: int = 64, *, scales: int = 2, stages: int = 4) -> None:
        super().__init__()
        self.label_channels = label_channels
        self.scales = nn.ModuleList(
            PatchDiscriminator(label_channels + 3, ndf, stages=stages) for _ in range(scales)
        )
        start_small(self)

    def reset_parameters(self) -> None:
        """As a fresh network: new random weights."""
        reset_parts(self)
        start_small(self)

    def forward(self, images: Tensor, labels: Tensor) -> list[PatchOutput]:
        n, _, *size = images.shape
        if images.dim() != 4 or images.shape[1] != 3 or labels.shape != (n, self.label_channels, *size):
            raise ValueError(
                f"images must be (N, 3, H, W) and labels (N, L, H, W) with L = {self.label_channels}, got "
                f"{tuple(images.shape)} and {tuple(labels.shape)}"
            )
        x = channels_last(torch.cat([labels.to(images.dtype), images], dim=1))
        outputs = []
        for patch in self.scales:
            outputs.append(patch(x))
            x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return outputs

    def extra_repr(self) -> str:
        return f"label_channels={self.label_channels}"
