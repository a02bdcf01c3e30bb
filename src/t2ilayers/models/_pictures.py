"""What the models have in common about pictures: their sides, and the convolution that makes them."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import SpectralConv2d
from ..ops._fast import few_channels_conv2d


def check_image_size(image_size: int) -> None:
    """ValueError unless it is a power of two from 16."""
    if image_size < 16 or image_size & (image_size - 1):
        raise ValueError(f"image_size must be a power of two from 16, got {image_size}")


def check_images(images: Tensor, image_size: int) -> None:
    """ValueError unless they are ``(N, 3, S, S)``."""
    if images.dim() != 4 or images.shape[1:] != (3, image_size, image_size):
        raise ValueError(f"images must be (N, 3, {image_size}, {image_size}), got {tuple(images.shape)}")


class ToPicture(nn.Conv2d):
    """The 3x3 convolution to a picture."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return few_channels_conv2d(input, weight, bias)


class SpectralToPicture(SpectralConv2d):
    """The same, spectrally normalised."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return few_channels_conv2d(input, weight, bias)
