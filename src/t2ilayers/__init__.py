"""Conditional-GAN layers for text-to-image synthesis, and a reference SSA-GAN made of them."""

__version__ = "0.1.0"
