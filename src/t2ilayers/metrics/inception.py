"""Inception-v3 as evaluation uses it: the two published sets of weights, from files that are what they claim."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from ..encoders.inception import InceptionV3Trunk

InceptionKind = Literal["tensorflow-2015", "torchvision"]

CLASSES: Mapping[InceptionKind, int] = {"tensorflow-2015": 1008, "torchvision": 1000}

KNOWN_WEIGHTS: Mapping[str, str] = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": "pt_inception-2015-12-05-6726825d.pth",
    "1a9a5a14f40645a370184bd54f4e8e631351e71399112b43ad0294a79da290c8": "inception_v3_google-1a9a5a14.pth",
    "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef": "inception_v3_google-0cc3c7bd.pth",
}
"""SHA-256 of the published files: the one of pytorch-fid, and torchvision's older and newer one."""


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
        """The classifier on ``(N, 2048)`` features: ``(N, classes)``, with or without its bias.

        Example: see :class:`InceptionV3`.
        """
        return F.linear(features, self.fc.weight, self.fc.bias if bias else None)

    @classmethod
    def random(cls, kind: InceptionKind, *, seed: int) -> Self:
        """Random weights, for dry runs: what they measure means nothing. The global random state is left alone.

        Example: see :class:`InceptionV3`.
        """
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
            >>> import tempfile
            >>> network = InceptionV3("torchvision")
            >>> state = network.trunk.state_dict() | {f"fc.{k}": v for k, v in network.fc.state_dict().items()}
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     torch.save(state, f"{folder}/weights.pth")
            ...     sha256 = hashlib.sha256(Path(folder, "weights.pth").read_bytes()).hexdigest()
            ...     InceptionV3.from_file(f"{folder}/weights.pth", sha256=sha256).kind
            'torchvision'
        """
        content = Path(path).read_bytes()  # what is hashed is what is loaded
        found = hashlib.sha256(content).hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise ValueError(f"{os.fspath(path)} has SHA-256 {found}, which is not the expected {sha256}")
        if sha256 is None and found not in KNOWN_WEIGHTS:
            raise ValueError(
                f"{os.fspath(path)} is none of {', '.join(KNOWN_WEIGHTS.values())}: its SHA-256 is {found}; if "
                "you trust the file, give that hash with it"
            )
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is no checkpoint of plain tensors: {error}") from error
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError(f"{os.fspath(path)} is no state dict of tensors, got {type(state).__name__}")
        try:
            network = cls(_kind(state))
            network._fill(state)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} holds no Inception-v3: {error}") from error
        network.source, network.sha256 = os.fspath(path), found
        return network

    def _fill(self, state: Mapping[str, Tensor]) -> None:
        own = self.state_dict()
        given = {
            key if key.startswith("fc.") else f"trunk.{key}": value
            for key, value in state.items()
            if not key.startswith("AuxLogits.")
        }
        problems = [f"unknown key {_published(key)}" for key in given if key not in own]
        problems += [
            f"misshapen key {_published(key)}: must be {tuple(own[key].shape)}, got {tuple(value.shape)}"
            for key, value in given.items()
            if key in own and value.shape != own[key].shape
        ]
        problems += [
            f"missing key {_published(key)}"
            for key in own
            if key not in given and not key.endswith(".num_batches_tracked")
        ]
        if problems:
            more = f" (+{len(problems) - 10} more)" if len(problems) > 10 else ""
            raise ValueError("; ".join(problems[:10]) + more)
        self.load_state_dict(own | given)


def _kind(state: Mapping[str, Tensor]) -> InceptionKind:
    if "fc.weight" not in state:
        raise ValueError(f"missing key fc.weight; it has {sorted(state)[:5]} ...")
    shape = tuple(state["fc.weight"].shape)
    for kind, classes in CLASSES.items():
        if shape == (classes, 2048):
            return kind
    raise ValueError(f"misshapen key fc.weight: must be (1008, 2048) or (1000, 2048), got {shape}")


def _published(key: str) -> str:
    return key.removeprefix("trunk.")
