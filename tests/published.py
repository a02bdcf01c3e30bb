"""The golden figures of the published modules, and the rule that made their weights and inputs.

``tests/golden/README.md`` states the rule; this is that text as code.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
GOLDEN_RATIO = 0.6180339887498949


@cache
def figures() -> dict[str, Tensor]:
    return load_file(FOLDER / "open.safetensors")


@cache
def official_keys() -> dict[str, dict[str, list[int]]]:
    return json.loads((FOLDER / "official_keys.json").read_text())


def _uniform(key: str, shape: Iterable[int]) -> np.ndarray:
    i = np.arange(1, int(np.prod(tuple(shape))) + 1, dtype=np.float64)
    return np.modf(i * GOLDEN_RATIO + zlib.crc32(key.encode()) / 2**32)[0].reshape(tuple(shape))


def weight(key: str, shape: Iterable[int]) -> Tensor:
    """The value of the state-dict entry ``key``; the rules apply in this order."""
    shape = tuple(shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = _uniform(key, shape)
    if key.endswith("running_var"):
        value = 0.5 + u
    elif key.endswith("running_mean"):
        value = 0.2 * u - 0.1
    elif len(shape) >= 2:
        value = (2 * u - 1) * np.sqrt(3 / np.prod(shape[1:]))
    elif shape == (1,) and key.split(".")[-1] == "gamma":
        value = 0.3 + 0.2 * u
    elif key.endswith(".bn.weight") or key.split(".")[-2:] == ["1", "weight"] or key.endswith("conv_img.0.weight"):
        value = 0.5 + u
    else:
        value = 0.2 * u - 0.1
    return torch.from_numpy(value.astype(np.float32))


def weights(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """A state dict by the rule, for the keys and shapes given."""
    return {key: weight(key, shape) for key, shape in shapes.items()}


def data(name: str, shape: Iterable[int], lo: float, hi: float) -> Tensor:
    u = _uniform("data:" + name, shape)
    return torch.from_numpy((lo + (hi - lo) * u).astype(np.float32))


def gauss(name: str, shape: Iterable[int]) -> Tensor:
    shape = tuple(shape)
    u = _uniform(f"data:{name}:a", shape)
    i = np.arange(1, u.size + 1, dtype=np.float64)
    v = np.modf(i * 0.7548776662466927 + zlib.crc32(name.encode()) / 2**32)[0].reshape(shape)
    value = np.sqrt(-2 * np.log(np.clip(u, 1e-12, 1))) * np.cos(2 * np.pi * v)
    return torch.from_numpy(value.astype(np.float32))
