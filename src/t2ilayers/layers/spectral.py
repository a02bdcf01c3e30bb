"""Layers whose weight is divided by its largest singular value."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gradfix import Conv2d


class SpectralNorm(nn.Module):
    r"""What :class:`SpectralConv2d`, :class:`SpectralLinear` and :class:`SpectralEmbedding` have in common.

    .. math::
        v \leftarrow \frac{W^\top u}{\|W^\top u\|}, \quad u \leftarrow \frac{W v}{\|W v\|}, \quad
        \bar W = \frac{W}{u^\top W v}

    W is the weight as a matrix of one row for each output. A forward pass in training mode takes one step of the
    iteration and keeps it in buffers. Gradients flow through W and not through u and v.

    Two forms are in use, which differ in evaluation mode. The one of torch divides by :math:`u^\top W v` with u
    and v as they were kept. The one of BigGAN (``step_in_eval=True``) takes one more step from u, which it does
    not keep; it has no buffer ``v``, and one for the last singular value, ``sigma``.

    Unlike modules that :func:`torch.nn.utils.parametrizations.spectral_norm` changes, these can be pickled, and a
    fresh one needs no iterations.

    Source: Miyato et al., *Spectral Normalization for Generative Adversarial Networks*, arXiv 1802.05957.
    """

    weight: Tensor
    u: Tensor
    v: Tensor | None
    sigma: Tensor | None

    def _add_vectors(self, eps: float, step_in_eval: bool) -> None:
        self.eps = eps
        self.step_in_eval = step_in_eval
        rows, columns = self.weight.flatten(1).shape
        self.register_buffer("u", self.weight.new_empty(rows))
        self.register_buffer("v", None if step_in_eval else self.weight.new_empty(columns))
        self.register_buffer("sigma", self.weight.new_empty(()) if step_in_eval else None)
        self._reset_vectors()

    def reset_parameters(self) -> None:
        """As a fresh layer: a new weight, and random u and v."""
        super().reset_parameters()  # type: ignore[misc]
        if "u" in self._buffers:  # torch's own layers call this before there are any
            self._reset_vectors()

    def _reset_vectors(self) -> None:
        for vector in (self.u, self.v):
            if vector is not None:
                vector.copy_(F.normalize(torch.randn_like(vector), dim=0, eps=self.eps))
        if self.sigma is not None:
            nn.init.ones_(self.sigma)

    def normalized_weight(self) -> Tensor:
        """The weight divided by its largest singular value; in training mode, after one step of the iteration."""
        weight = self.weight
        with torch.autocast(weight.device.type, enabled=False):  # in half precision the iteration loses its digits
            matrix = weight.flatten(1)
            with torch.no_grad():
                if self.training or self.v is None:
                    v = F.normalize(matrix.mT @ self.u, dim=0, eps=self.eps)
                    u = F.normalize(matrix @ v, dim=0, eps=self.eps)
                else:  # copies: a later step must not change what this pass's backward reads
                    u, v = self.u.clone(), self.v.clone()
            sigma = u @ (matrix @ v)
            if self.training:
                self._keep(u, v, sigma.detach())
            return weight * sigma.reciprocal()  # a quotient's derivative takes more passes over the weight

    def _keep(self, u: Tensor, v: Tensor, sigma: Tensor) -> None:
        self.u.copy_(u)
        if self.v is not None:
            self.v.copy_(v)
        if self.sigma is not None:
            self.sigma.copy_(sigma)


class SpectralConv2d(SpectralNorm, Conv2d):
    r"""A convolution of spectral norm 1; see :class:`SpectralNorm`.

    .. math:: y = \bar W \star x + b

    Args:
        args: those of :class:`torch.nn.Conv2d`.
        eps: least length that a vector is divided by.
        step_in_eval: whether evaluation mode takes a step of the iteration, as BigGAN's code does.
        options: those of :class:`torch.nn.Conv2d`, by keyword.

    Shapes:
        ``x (N, C_in, H, W)``, returns ``(N, C_out, H', W')``.

    Source: arXiv 1802.05957.

    Example:
        >>> SpectralConv2d(3, 8, 3, padding=1)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(self, *args: Any, eps: float = 1e-12, step_in_eval: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._add_vectors(eps, step_in_eval)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalized_weight(), self.bias)


class SpectralLinear(SpectralNorm, nn.Linear):
    r"""A Linear of spectral norm 1; see :class:`SpectralNorm`.

    .. math:: y = \bar W x + b

    Args:
        args: those of :class:`torch.nn.Linear`.
        eps: least length that a vector is divided by.
        step_in_eval: whether evaluation mode takes a step of the iteration, as BigGAN's code does.
        options: those of :class:`torch.nn.Linear`, by keyword.

    Shapes:
        ``x (..., D)``, returns ``(..., C)``.

    Source: arXiv 1802.05957.

    Example:
        >>> layer = SpectralLinear(8, 4, bias=False)
        >>> for _ in range(200):
        ...     y = layer(torch.randn(2, 8))
        >>> torch.linalg.matrix_norm(layer.normalized_weight(), 2).round(
        ...     decimals=3
        ... ).item()
        1.0
    """

    def __init__(self, *args: Any, eps: float = 1e-12, step_in_eval: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._add_vectors(eps, step_in_eval)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized_weight(), self.bias)


class SpectralEmbedding(SpectralNorm, nn.Embedding):
    r"""An Embedding whose table has spectral norm 1; see :class:`SpectralNorm`.

    .. math:: y = \bar W_c

    Args:
        args: those of :class:`torch.nn.Embedding`.
        eps: least length that a vector is divided by.
        step_in_eval: whether evaluation mode takes a step of the iteration, as BigGAN's code does.
        options: those of :class:`torch.nn.Embedding`, by keyword.

    Shapes:
        ``classes (...)`` of whole numbers in [0, K), returns ``(..., C)``.

    Source: arXiv 1802.05957.

    Example:
        >>> SpectralEmbedding(10, 16)(torch.tensor([3, 7])).shape
        torch.Size([2, 16])
    """

    def __init__(self, *args: Any, eps: float = 1e-12, step_in_eval: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._add_vectors(eps, step_in_eval)

    def forward(self, classes: Tensor) -> Tensor:
        return F.embedding(
            classes,
            self.normalized_weight(),
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )
