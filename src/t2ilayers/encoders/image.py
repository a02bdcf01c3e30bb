"""Image encoders: the DAMSM encoder on Inception-v3, and a small convolutional one for small pictures."""

import os
from typing import NamedTuple, cast

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from .._weights import fill
from ..layers import FusedSequential, whiten
from ..ops._torch import exportable
from .inception import InceptionV3Trunk
from .inception_weights import read_inception

__all__ = ["ConvImageEncoder", "ImageFeatures", "InceptionImageEncoder"]


@exportable
class ImageFeatures(NamedTuple):
    """What an image encoder returns.

    ``regions (N, D, h, w)``: one vector per place of the picture. ``code (N, D)``: the whole picture.

    Example:
        >>> import torch
        >>> from t2ilayers.encoders import ImageFeatures
        >>> ImageFeatures(
        ...     regions=torch.zeros(4, 256, 17, 17), code=torch.zeros(4, 256)
        ... ).code.shape
        torch.Size([4, 256])
    """

    regions: Tensor
    code: Tensor


def _check_floating(images: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(
            f"images must be of a floating dtype, with values in [-1, 1], got {images.dtype}; "
            "for bytes use images / 127.5 - 1"
        )


class InceptionImageEncoder(nn.Module):
    r"""The DAMSM image encoder: a frozen Inception-v3 with a learned projection of its features.

    ``mixed_6e, pooled = trunk(resize(images))``; ``regions = conv1x1(mixed_6e)`` without bias,
    ``code = Linear(pooled)``. The resize is bilinear to 299x299 with ``align_corners=False``.

    The trunk is frozen: its parameters do not require gradients and its batch norms stay in evaluation mode
    whatever :meth:`train` is told, while gradients do flow through it to the images. A fresh encoder has a
    *random* trunk; load weights before its features are to mean something.

    State-dict keys are the published ones (``emb_features``, ``emb_cnn_code``), those of the trunk with the
    prefix ``trunk.``.

    Args:
        cond_dim: ``D``, positive.

    Shapes:
        images ``(N, 3, H, W)`` of a floating dtype, values in ``[-1, 1]``, any ``H`` and ``W``. Returns
        :class:`ImageFeatures`: regions ``(N, D, 17, 17)``, code ``(N, D)``.

    Raises:
        ValueError: ``cond_dim`` is not positive, or ``images`` is not ``(N, 3, H, W)``.
        TypeError: ``images`` is not of a floating dtype.

    Source: Xu et al., AttnGAN, arXiv 1711.10485, section 3.2 ("The image encoder"), equation 6.

    Example:
        >>> import torch
        >>> from t2ilayers.encoders import InceptionImageEncoder
        >>> encoder = InceptionImageEncoder(cond_dim=256)
        >>> with torch.no_grad():
        ...     regions, code = encoder(torch.zeros(1, 3, 64, 64))
        >>> regions.shape, code.shape
        (torch.Size([1, 256, 17, 17]), torch.Size([1, 256]))
    """

    def __init__(self, cond_dim: int = 256) -> None:
        super().__init__()
        if cond_dim < 1:
            raise ValueError(f"cond_dim must be at least 1, got {cond_dim}; 256 is usual")
        self.cond_dim = cond_dim
        self.trunk = InceptionV3Trunk().requires_grad_(False)
        self.emb_features = nn.Conv2d(768, cond_dim, 1, bias=False)
        self.emb_cnn_code = nn.Linear(2048, cond_dim)
        nn.init.uniform_(self.emb_features.weight, -0.1, 0.1)
        nn.init.uniform_(self.emb_cnn_code.weight, -0.1, 0.1)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the projections; the trunk stays in evaluation mode.

        Example:
            >>> from t2ilayers.encoders import InceptionImageEncoder
            >>> encoder = InceptionImageEncoder(cond_dim=8).train()
            >>> encoder.training, encoder.trunk.training
            (True, False)
        """
        super().train(mode)
        self.trunk.eval()
        return self

    def load_trunk(self, path: str | os.PathLike[str], *, sha256: str | None = None) -> None:
        """Take ImageNet weights of Inception-v3 for the trunk, in which the published encoders started.

        Args:
            path: torchvision's file, or pytorch-fid's port of TensorFlow's weights; its pooling is left out.
            sha256: of the file, in hexadecimal; the published files need none.

        Raises:
            FileNotFoundError: no such file.
            ValueError: another hash, or weights of another network; the message names the keys.
        """
        state = read_inception(path, sha256=sha256).state
        try:
            with torch.device("meta"):
                trunk = InceptionV3Trunk()
            fill(trunk, {key: value for key, value in state.items() if not key.startswith("fc.")})
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} holds no Inception-v3: {error}") from error
        self.trunk.load_state_dict(trunk.state_dict())

    def forward(self, images: Tensor) -> ImageFeatures:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be (N, 3, H, W), got {tuple(images.shape)}; for a single one pass images[None], "
                "for grey ones images.expand(-1, 3, -1, -1)"
            )
        _check_floating(images)
        resized = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
        mixed_6e, pooled = self.trunk(resized)
        return ImageFeatures(regions=self.emb_features(mixed_6e), code=self.emb_cnn_code(pooled))


_GRID = 8  # side of the regions


class _Residual(nn.Module):
    """``x + conv3x3(act(norm(x)))``: lets a region see its neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = FusedSequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def _down(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1),
    ]


class ConvImageEncoder(nn.Module):
    r"""A small convolutional image encoder with the outputs of :class:`InceptionImageEncoder`.

    Strided 4x4 convolutions with batch norms and ReLU bring the picture to 8x8, two residual 3x3
    convolutions follow; ``regions = conv1x1(features)``. One more strided convolution and a Linear *over all
    of its 4x4 places* give ``code``, which therefore sees where things are, and not only what they are.

    A stage whose output is ``r`` px wide has ``16 · width / r`` channels: every stage costs about the same.
    The norms are of the batch while the encoder trains, so that what all pictures share does not drown what tells
    them apart; in evaluation mode a picture's features do not depend on others.

    Args:
        image_size: side of the pictures: 32, 64 or 128.
        cond_dim: ``D``, positive.
        width: channels at 16 px, a positive multiple of 16; there are twice as many at 8 px.

    Shapes:
        images ``(N, 3, image_size, image_size)`` of a floating dtype, values in ``[-1, 1]``. Returns
        :class:`ImageFeatures`: regions ``(N, D, 8, 8)``, code ``(N, D)``.

    Raises:
        ValueError: a setting or the shape of ``images`` breaks the rules above.
        TypeError: ``images`` is not of a floating dtype.

    Source: the two outputs are those of AttnGAN, arXiv 1711.10485, section 3.2; the network is this library's
    own.

    Example:
        >>> import torch
        >>> from t2ilayers.encoders import ConvImageEncoder
        >>> regions, code = ConvImageEncoder(32, cond_dim=64)(torch.zeros(2, 3, 32, 32))
        >>> regions.shape, code.shape
        (torch.Size([2, 64, 8, 8]), torch.Size([2, 64]))
    """

    def __init__(self, image_size: int, cond_dim: int = 256, width: int = 64) -> None:
        super().__init__()
        if image_size not in (32, 64, 128):
            raise ValueError(
                f"image_size must be 32, 64 or 128, got {image_size}; for larger ones take InceptionImageEncoder"
            )
        if cond_dim < 1 or width < 16 or width % 16:
            raise ValueError(
                "cond_dim must be at least 1 and width a positive multiple of 16, got "
                f"{cond_dim} and {width}; try cond_dim=256, width=64"
            )
        self.image_size = image_size
        self.cond_dim = cond_dim
        self.width = width
        side = image_size // 2
        channels = 2 * width * _GRID // side
        stages: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1)]
        while side > _GRID:
            stages += _down(channels, 2 * channels)
            side, channels = side // 2, 2 * channels
        self.stages = FusedSequential(
            *stages,
            _Residual(channels),
            _Residual(channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.to_regions = nn.Conv2d(channels, cond_dim, 1)
        self.to_code = FusedSequential(
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            Rearrange("n c h w -> n (c h w)"),
            nn.Linear(2 * channels * (_GRID // 2) ** 2, cond_dim),
        )

    def whiten(self, images: Tensor) -> None:
        """Start the first convolution as a whitening of the patches of ``images``, which learns sooner.

        By :func:`~t2ilayers.layers.whiten`, with pairs and an epsilon of 0.001.

        Args:
            images: ``(N, 3, image_size, image_size)`` in [-1, 1], such as 256 of the training pictures.

        Raises:
            ValueError, TypeError: as from ``forward``.

        Example:
            >>> import torch
            >>> from t2ilayers.encoders import ConvImageEncoder
            >>> encoder = ConvImageEncoder(32)
            >>> encoder.whiten(torch.rand(64, 3, 32, 32) * 2 - 1)
        """
        self._check(images)
        whiten(cast(nn.Conv2d, self.stages[0]), images, pairs=True, epsilon=1e-3)

    def forward(self, images: Tensor) -> ImageFeatures:
        self._check(images)
        features = self.stages(images)
        return ImageFeatures(regions=self.to_regions(features), code=self.to_code(features))

    def _check(self, images: Tensor) -> None:
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images must be (N, 3, {self.image_size}, {self.image_size}), got {tuple(images.shape)}; "
                "resize them, or make the encoder with their image_size"
            )
        _check_floating(images)

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}"
