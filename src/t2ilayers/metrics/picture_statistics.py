"""Pictures, Inception and a protocol put together: what FID and the inception score are computed from."""

from __future__ import annotations

import torch
from torch import Tensor

from ._inception_score import InceptionScore, inception_score
from .frechet import GaussianStatistics, StreamingStatistics
from .inception import InceptionV3
from .protocols import Protocol


class PictureStatistics:
    """What Inception makes of pictures under one protocol: their Gaussian for FID, and their inception score.

    Args:
        protocol: one of ``PROTOCOLS``.
        network: of the protocol's kind; its device is where the work is done.

    Raises:
        ValueError: a network of another kind.

    Example:
        >>> from t2ilayers.metrics import PROTOCOLS
        >>> network = InceptionV3.random("tensorflow-2015", seed=0)
        >>> statistics = PictureStatistics(PROTOCOLS["clean"], network)
        >>> statistics.update(torch.rand(2, 3, 32, 32) * 2 - 1)
        >>> statistics.gaussian().label
        'clean, random:0'
    """

    def __init__(self, protocol: Protocol, network: InceptionV3) -> None:
        if network.kind != protocol.weights:
            raise ValueError(f"weights must be {protocol.weights} for {protocol.name}, got {network.kind}")
        self.protocol = protocol
        self.network = network
        self.label = f"{protocol.name}, {network.sha256 or network.source}"
        self._features = StreamingStatistics(network.fc.in_features)
        self._logits: list[Tensor] = []

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Take in ``(N, 3, H, W)`` more pictures in [-1, 1]."""
        prepared = self.protocol.prepare(images.to(self.network.fc.weight.device))
        features = self.network(prepared)
        self._features.update(features)
        self._logits.append(self.network.logits(features, bias=self.protocol.logits_bias).cpu())

    def gaussian(self) -> GaussianStatistics:
        """Mean and covariance of the features of all pictures so far, labelled with protocol and weights."""
        return self._features.compute(self.label)

    def inception_score(self) -> InceptionScore:
        """The inception score of all pictures so far, over the protocol's splits.

        Example:
            >>> from t2ilayers.metrics import PROTOCOLS
            >>> network = InceptionV3.random("torchvision", seed=0)
            >>> statistics = PictureStatistics(PROTOCOLS["df-legacy"], network)
            >>> statistics.update(torch.zeros(10, 3, 32, 32))
            >>> round(statistics.inception_score().mean, 4)
            1.0
        """
        return inception_score(torch.cat(self._logits), self.protocol.splits)
