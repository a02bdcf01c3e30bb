"""The golden figures of the family's published modules, and the rules that made their weights and inputs.

``tests/golden/family/README.md`` states the rules; this is that text as code.
"""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "golden" / "family"
GOLDEN_RATIO = 0.6180339887498949


@cache
def family(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Figures by entry, and the metadata."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        metadata = {key: json.loads(text) if text[0] in "{[" else text for key, text in file.metadata().items()}
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


@cache
def counts(name: str) -> dict[str, dict[str, int]]:
    """Parameters by width and network."""
    return json.loads((FOLDER / "official_keys.json").read_text())[name]["parameters"]


def _uniform(key: str, shape: Iterable[int]) -> np.ndarray:
    i = np.arange(1, int(np.prod(tuple(shape))) + 1, dtype=np.float64)
    return np.modf(i * GOLDEN_RATIO + zlib.crc32(key.encode()) / 2**32)[0].reshape(tuple(shape))


def weight(key: str, shape: Iterable[int]) -> Tensor:
    """The value of the state-dict entry ``key``, in float64; the rules apply in this order."""
    shape = tuple(shape)
    if "lstm." in key:  # one cell, under many names
        key = "block6.lstm." + key.split("lstm.")[1]
    if "CLIP_ViT." in key:
        key = "visual." + key.split("CLIP_ViT.")[1]
    u, last = _uniform(key, shape), key.split(".")[-1]
    if last in ("num_batches_tracked", "accumulation_counter"):
        return torch.zeros(shape, dtype=torch.int64)
    if last in ("running_var", "stored_var"):
        value = 0.5 + u
    elif last in ("running_mean", "stored_mean"):
        value = 0.2 * u - 0.1
    elif key.endswith((".b1.embed.weight", ".b2.embed.weight")):
        half = shape[1] // 2
        value = np.concatenate([0.5 + u[:, :half], 0.2 * u[:, half:] - 0.1], axis=1)
    elif re.fullmatch(r"sv\d+", last):
        value = np.ones(shape)
    elif last in ("weight_u", "weight_v"):
        value = (2 * u - 1) * np.sqrt(3 / u.size)
    elif len(shape) >= 2:
        value = (2 * u - 1) * np.sqrt(3 / np.prod(shape[1:]))
    elif shape in ((), (1,)) and last in ("gamma", "beta"):
        value = 0.3 + 0.2 * u
    elif key.endswith("fc_gamma.linear2.bias"):
        value = 0.9 + 0.2 * u
    elif len(shape) == 1 and last in ("weight", "gain"):
        value = 0.5 + u
    else:
        value = 0.2 * u - 0.1
    return torch.from_numpy(np.asarray(value).astype(np.float32).astype(np.float64))


def weights(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    return {key: weight(key, shape) for key, shape in shapes.items()}


def data(name: str, shape: Iterable[int], lo: float, hi: float) -> Tensor:
    value = lo + (hi - lo) * _uniform("data:" + name, shape)
    return torch.from_numpy(value.astype(np.float32).astype(np.float64))


def gauss(name: str, shape: Iterable[int]) -> Tensor:
    shape = tuple(shape)
    u = _uniform(f"data:{name}:a", shape)
    i = np.arange(1, u.size + 1, dtype=np.float64)
    v = np.modf(i * 0.7548776662466927 + zlib.crc32(name.encode()) / 2**32)[0].reshape(shape)
    value = np.sqrt(-2 * np.log(np.clip(u, 1e-12, 1))) * np.cos(2 * np.pi * v)
    return torch.from_numpy(value.astype(np.float32).astype(np.float64))


def given(rule: Mapping[str, Any]) -> Tensor:
    """An input of a case by its rule; it requires a gradient unless it is fixed or of whole numbers."""
    name, shape = rule["name"], rule["shape"]
    if rule["rule"] == "labels":
        return torch.from_numpy(np.floor(rule["classes"] * _uniform("data:" + name, shape))).long()
    if rule["rule"] == "onehot":
        n, k, h, w = shape
        block = rule["block"]
        small = np.floor(k * _uniform("data:" + name, (n, -(-h // block), -(-w // block))))
        labels = torch.from_numpy(small).long().repeat_interleave(block, 1).repeat_interleave(block, 2)
        return torch.nn.functional.one_hot(labels[:, :h, :w], k).movedim(3, 1).double()
    x = gauss(name, shape) if rule["rule"] == "gauss" else data(name, shape, rule["lo"], rule["hi"])
    return x if rule.get("fixed") else x.requires_grad_()


def assert_entry(
    found: Tensor, figures: Mapping[str, Tensor], entry: str, *, limit: int = 1024, tolerance: float = 1e-6
) -> None:
    """``found`` has the figures of ``entry``, to ``tolerance`` of its largest value."""
    expected, flat = figures[entry].double().flatten(), found.detach().double().flatten()
    norm = figures.get(f"{entry}.norm")
    if norm is not None:
        torch.testing.assert_close(flat.norm().reshape(1), norm.reshape(1), rtol=tolerance, atol=0)
    step = -(-flat.numel() // limit)
    flat = flat[:: step + 1 - step % 2]
    largest = expected.abs().max().item()

    def name(text: str) -> str:
        return f"{entry}: {text}"

    torch.testing.assert_close(flat, expected, rtol=0, atol=tolerance * largest, msg=name)
