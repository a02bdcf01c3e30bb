"""Stateless functions. They know nothing of modules and import torch only."""

from .conv2d import conv2d
from .masked_affine_norm import masked_affine_norm

__all__ = ["conv2d", "masked_affine_norm"]
