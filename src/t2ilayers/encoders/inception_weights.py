"""The published files of Inception-v3's weights, each of them what its hash says."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from .._files import read_regular, some
from .._weights import read_torch, state_dict

InceptionKind = Literal["tensorflow-2015", "torchvision"]

CLASSES: Mapping[InceptionKind, int] = {"tensorflow-2015": 1008, "torchvision": 1000}

KNOWN_WEIGHTS: Mapping[str, str] = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": "pt_inception-2015-12-05-6726825d.pth",
    "1a9a5a14f40645a370184bd54f4e8e631351e71399112b43ad0294a79da290c8": "inception_v3_google-1a9a5a14.pth",
    "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef": "inception_v3_google-0cc3c7bd.pth",
}
"""SHA-256 of the published files: the one of pytorch-fid, and torchvision's older and newer one."""

_MOST_BYTES = 2**30  # ten times the published files


class InceptionWeights(NamedTuple):
    """What :func:`read_inception` returns.

    Attributes:
        kind: which network they are of.
        state: its weights under torchvision's keys, ``Conv2d_1a_3x3.conv.weight`` to ``fc.bias``.
        sha256: of the file.
    """

    kind: InceptionKind
    state: dict[str, Tensor]
    sha256: str


def read_inception(path: str | os.PathLike[str], *, sha256: str | None = None) -> InceptionWeights:
    """The weights of a published file, of the kind that its classifier tells.

    ``AuxLogits.*`` is left aside: nothing here uses the auxiliary classifier.

    Args:
        path: a state dict of tensors, saved by ``torch.save``.
        sha256: of the file, in hexadecimal. Without it the file must be one of ``KNOWN_WEIGHTS``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another hash, no state dict, or one without an Inception's classifier.
    """
    path = os.fspath(path)
    content = read_regular(path, _MOST_BYTES)  # what is hashed is what is loaded
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ValueError(f"{path} has SHA-256 {found}, which is not the expected {sha256}")
    if sha256 is None and found not in KNOWN_WEIGHTS:
        raise ValueError(
            f"{path} is none of {', '.join(KNOWN_WEIGHTS.values())}: its SHA-256 is {found}; if you trust the "
            "file, give that hash with it"
        )
    try:
        state = state_dict(read_torch(path, io.BytesIO(content)))
        kept = {key: value for key, value in state.items() if not key.startswith("AuxLogits.")}
        return InceptionWeights(_kind(kept), kept, found)
    except ValueError as error:
        raise ValueError(f"{path} holds no Inception-v3: {error}") from error


def _kind(state: Mapping[str, Tensor]) -> InceptionKind:
    if "fc.weight" not in state:
        raise ValueError(f"missing key fc.weight; it has {some(sorted(state), most=5)}")
    shape = tuple(state["fc.weight"].shape)
    for kind, classes in CLASSES.items():
        if shape == (classes, 2048):
            return kind
    raise ValueError(f"misshapen key fc.weight: must be (1008, 2048) or (1000, 2048), got {shape}")
