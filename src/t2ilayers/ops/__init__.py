"""Stateless functions. They know nothing of modules and import torch only."""

from .masked_affine_norm import masked_affine_norm
from .penalized import average_pool2d, conv2d, leaky_relu

__all__ = ["average_pool2d", "conv2d", "leaky_relu", "masked_affine_norm"]
