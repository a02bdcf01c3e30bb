"""How pictures become what Inception sees: the three ways in which this field's numbers were computed.

The same pictures score another "FID" under each of them, so a number without its protocol means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..encoders.inception_weights import InceptionKind
from ._finite import check_finite

SIDE = 299  # px, of what Inception sees


@dataclass(frozen=True)
class Protocol:
    """From pictures to the input of Inception, and from its features to class logits.

    Attributes:
        name: of the protocol.
        weights: which published network it is defined by.
        quantize: are the pictures rounded to 8 bits first, as if they had been saved?
        resize: to 299 px. ``"bicubic-antialias"``: Pillow's, in float; ``"bilinear"``: between pixel centres,
            without antialiasing.
        scale, shift: for red, green and blue, of ``scale * pixel + shift`` with pixels in 0..255: what the
            network is given.
        logits_bias: do the logits of the inception score have the classifier's bias?
        splits: of the inception score.

    Example:
        >>> PROTOCOLS["clean"].prepare(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 3, 299, 299])
    """

    name: str
    weights: InceptionKind
    quantize: bool
    resize: Literal["bicubic-antialias", "bilinear"]
    scale: tuple[float, float, float]
    shift: tuple[float, float, float]
    logits_bias: bool
    splits: int = 10

    def prepare(self, images: Tensor) -> Tensor:
        """Pictures ``(N, 3, H, W)`` in [-1, 1] as the network takes them, ``(N, 3, 299, 299)`` float32.

        Raises:
            ValueError: another shape, or pictures that are not finite.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
        check_finite("images", images)
        pixels = (images.float() + 1) * 127.5
        if self.quantize:
            pixels = pixels.round().clamp(0, 255)
        pixels = resize_bicubic(pixels) if self.resize == "bicubic-antialias" else resize_bilinear(pixels)
        scale, shift = (torch.tensor(row, device=pixels.device)[:, None, None] for row in (self.scale, self.shift))
        return pixels * scale + shift


def resize_bicubic(images: Tensor) -> Tensor:
    """Pillow's bicubic, which is antialiased, of each channel as floats: nothing is rounded or cut off.

    Args:
        images: ``(N, 3, H, W)``.

    Returns:
        ``(N, 3, 299, 299)`` float32, on the device of the images. Needs Pillow (extra ``eval``).

    Source: Parmar, Zhang and Zhu, arXiv 2104.11222 (clean-fid), section 3.

    Example:
        >>> resize_bicubic(torch.full((1, 3, 64, 48), 7.0)).unique()
        tensor([7.])
    """
    from PIL import Image

    def resized(channel: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        picture = Image.fromarray(channel.numpy())  # float32: mode "F"
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    channels = images.float().cpu().flatten(0, 1)
    stacked = torch.from_numpy(np.stack([resized(channel) for channel in channels]))
    return stacked.reshape(len(images), 3, SIDE, SIDE).to(images.device)


def resize_bilinear(images: Tensor) -> Tensor:
    """Bilinear between pixel centres, without antialiasing: pictures above 299 px are subsampled.

    Args:
        images: ``(N, 3, H, W)``.

    Returns:
        ``(N, 3, 299, 299)``.

    Source: what pytorch-fid and DF-GAN's evaluation do.

    Example:
        >>> resize_bilinear(torch.zeros(1, 3, 64, 48)).shape
        torch.Size([1, 3, 299, 299])
    """
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False)


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        # TensorFlow's graph takes (pixel - 128) / 128, and its inception score leaves the bias out.
        Protocol(
            name="clean",
            weights="tensorflow-2015",
            quantize=True,
            resize="bicubic-antialias",
            scale=(1 / 128,) * 3,
            shift=(-1.0,) * 3,
            logits_bias=False,
        ),
        Protocol(
            name="pytorch-fid",
            weights="tensorflow-2015",
            quantize=True,
            resize="bilinear",
            scale=(2 / 255,) * 3,
            shift=(-1.0,) * 3,
            logits_bias=False,
        ),
        # torchvision's transform_input: it turns ImageNet-normalised pictures into [-1, 1]. DF-GAN, as DM-GAN and
        # the first pytorch-fid, applies it to pictures in [0, 1], so the network sees about [-0.2, 0.4]. Its
        # published numbers and reference statistics have that in them.
        Protocol(
            name="df-legacy",
            weights="torchvision",
            quantize=False,
            resize="bilinear",
            scale=(0.229 / 127.5, 0.224 / 127.5, 0.225 / 127.5),
            shift=(2 * 0.485 - 1, 2 * 0.456 - 1, 2 * 0.406 - 1),
            logits_bias=True,
        ),
    )
}
"""The protocols by name.

``clean``: clean-fid's. ``pytorch-fid``: pytorch-fid's, of pictures that were saved as PNG. ``df-legacy``: that of
DF-GAN and the papers after it, with torchvision's weights and a normalisation of its own. The inception scores
that this family publishes for CUB are none of these: they are of an Inception fine-tuned on the birds.
"""
