"""Inception-v3 as evaluation uses it: the two published sets of weights, from files that are what they claim."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from .._weights import fill
from ..encoders.inception import InceptionV3Trunk
from ..encoders.inception_weights import CLASSES, InceptionKind, read_inception


class InceptionV3(nn.Module):
    """Inception-v3 with its classifier, frozen and in evaluation mode; weights are random until loaded.

    ``"tensorflow-2015"`` is the network that the Fréchet inception distance is defined by, in the port of
    pytorch-fid: 1008 classes and TensorFlow's pooling. ``"torchvision"`` is torchvision's, of 1000 classes.

    Args:
        kind: one of the two.

    Attributes:
        source: where the weights are from: a file, or ``"random:SEED"``.
        sha256: of that file; None for random weights.

    Shapes:
        images ``(N, 3, 299, 299)`` to features ``(N, 2048)``, the global average after ``Mixed_7c``. What the
        values of the images must be is a matter of the :class:`~t2ilayers.metrics.Protocol`.

    Raises:
        ValueError: an unknown kind, or images that the trunk does not take.

    Source: Szegedy et al., arXiv 1512.00567; Heusel et al., arXiv 1706.08500; github.com/mseitzer/pytorch-fid.

    Example:
        >>> network = InceptionV3.random("tensorflow-2015", seed=0)
        >>> features = network(torch.zeros(1, 3, 299, 299))
        >>> features.shape, network.logits(features).shape
        (torch.Size([1, 2048]), torch.Size([1, 1008]))
    """

    def __init__(self, kind: InceptionKind) -> None:
        super().__init__()
        if kind not in CLASSES:
            raise ValueError(f"kind must be one of {', '.join(CLASSES)}, got {kind!r}")
        self.kind = kind
        self.source = "random"
        self.sha256: str | None = None
        self.trunk = InceptionV3Trunk("tensorflow" if kind == "tensorflow-2015" else "torchvision")
        self.fc = nn.Linear(2048, CLASSES[kind])
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.trunk(images)[1]
        return features

    def logits(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """The classifier on ``(N, 2048)`` features: ``(N, classes)``, with or without its bias."""
        return F.linear(features, self.fc.weight, self.fc.bias if bias else None)

    @classmethod
    def random(cls, kind: InceptionKind, *, seed: int) -> Self:
        """Random weights, for dry runs: what they measure means nothing. The global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = cls(kind)
        network.source = f"random:{seed}"
        return network

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, sha256: str | None = None) -> Self:
        """The network of a published file, of the kind that its classifier tells.

        Keys are torchvision's (``Conv2d_1a_3x3.conv.weight`` to ``fc.bias``). ``AuxLogits.*`` is left aside:
        nothing here uses the auxiliary classifier. Batch counters may be missing, as in files from before
        PyTorch 0.4.1.

        Args:
            path: a state dict of tensors, saved by ``torch.save``.
            sha256: of the file, in hexadecimal. Without it the file must be one of ``KNOWN_WEIGHTS``.

        Raises:
            FileNotFoundError: no such file.
            ValueError: another hash, no state dict, or an unknown, missing or misshapen key.

        Example:
            >>> import hashlib, tempfile
            >>> from pathlib import Path
            >>> network = InceptionV3("torchvision")
            >>> state = network.trunk.state_dict() | {
            ...     f"fc.{k}": v for k, v in network.fc.state_dict().items()
            ... }
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     torch.save(state, f"{folder}/weights.pth")
            ...     sha256 = hashlib.sha256(
            ...         Path(folder, "weights.pth").read_bytes()
            ...     ).hexdigest()
            ...     InceptionV3.from_file(f"{folder}/weights.pth", sha256=sha256).kind
            'torchvision'
        """
        weights = read_inception(path, sha256=sha256)
        try:
            with torch.device("meta"):
                network = cls(weights.kind)
            names = {key.removeprefix("trunk."): key for key in network.state_dict()}
            fill(network, weights.state, names=names)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} holds no Inception-v3: {error}") from error
        network.source, network.sha256 = os.fspath(path), weights.sha256
        return network
