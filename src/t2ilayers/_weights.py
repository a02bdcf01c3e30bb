"""Weights of a file or a mapping: compared with a module before anything is allocated, then copied into it."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Collection, Mapping
from typing import IO, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ._files import open_regular, some, written_whole

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_COUNTER = "num_batches_tracked"  # of batch norms; published files of before PyTorch 0.4.1 have none


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as views of it: what is not used is not read.

    Raises:
        OSError: the file cannot be read.
        ValueError: no safetensors file, or a damaged one; the message names it.
    """
    open_regular(path).close()  # the library below maps the file, and would wait for a pipe
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"{os.fspath(path)} is no whole safetensors file: {_reason(error)}") from error


def write_safetensors(weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write tensors as a safetensors file, whole or not at all.

    Raises:
        OSError: the disk's own error.
    """
    try:
        with written_whole(path) as temporary:
            save_file({key: value.contiguous() for key, value in weights.items()}, temporary)
    except SafetensorError as error:
        raise OSError(f"{os.fspath(path)} could not be written: {error!s:.300}") from error


def read_torch(path: str | os.PathLike[str], file: IO[bytes] | None = None) -> object:
    """What ``torch.save`` wrote, on the CPU: tensors and plain containers; nothing in it is run.

    Args:
        path: of the file, which errors name.
        file: its content, if it was opened already.

    Raises:
        OSError: the file cannot be read.
        ValueError: no such file of tensors, a damaged one, or one that claims more bytes than it has.
    """
    if file is None:
        with open_regular(path) as file:
            return read_torch(path, file)
    try:
        if zipfile.is_zipfile(file):
            claimed = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
            if claimed > (size := file.seek(0, os.SEEK_END)):
                raise ValueError(f"its entries claim {claimed} bytes, the file has {size}")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # in a file that is none, torch's reader may fail anywhere
        raise ValueError(f"{os.fspath(path)} is no checkpoint of plain tensors: {_reason(error)}") from error


def state_dict(value: object) -> dict[str, Tensor]:
    """``value``, if it is a state dict: tensors by name. ValueError, which shows what it is, if it is none."""
    if not isinstance(value, Mapping):
        raise ValueError(f"weights must be a state dict of tensors, got {type(value).__name__}")
    others = [
        f"{key!s:.80} ({type(tensor).__name__})"
        for key, tensor in value.items()
        if not (isinstance(key, str) and isinstance(tensor, Tensor))
    ]
    if others:
        raise ValueError(
            f"weights must be a state dict of tensors, got a mapping with keys {some(others, most=5)}"
        )
    return dict(value)


def fill(
    module: ModuleT,
    weights: Mapping[str, Tensor],
    *,
    names: Mapping[str, str] | None = None,
    unused: Mapping[str, tuple[int, ...]] | None = None,
) -> ModuleT:
    """Give ``module``, made on the meta device, a copy of ``weights``, on the CPU; put it into evaluation mode.

    A module on the meta device has sizes and no memory, so weights are refused before they have cost any.

    Args:
        module: made within ``with torch.device("meta")``.
        weights: a tensor for each of its keys. Batch counters may be missing. A part of the module may have an
            attribute ``former_keys``, from names that its entries had before to those of today.
        names: the module's keys by those of ``weights``, if they differ.
        unused: keys, and their shapes, that ``weights`` may have besides.

    Raises:
        ValueError: an unknown, missing or misshapen key, or weights of another kind than finite numbers; the
            message names the first ten.
    """
    own = module.state_dict()
    weights = _renamed(module, weights) if names is None else weights
    names = {key: key for key in own} if names is None else names
    expected = {key: own[name] for key, name in names.items()}
    shapes = {key: tuple(value.shape) for key, value in expected.items()} | dict(unused or {})
    problems = [f"unknown key {key}" for key in weights if key not in shapes]
    problems += [
        f"misshapen key {key}: must be {shapes[key]}, got {tuple(value.shape)}"
        for key, value in weights.items()
        if key in shapes and tuple(value.shape) != shapes[key]
    ]
    problems += [f"missing key {key}" for key in expected if key not in weights and not key.endswith(_COUNTER)]
    _raise_if_any(problems)
    wrong = ((key, _wrong(key, weights[key], target)) for key, target in expected.items() if key in weights)
    _raise_if_any([f"key {key} must be {text}" for key, text in wrong if text])
    copies = {}
    for key, target in expected.items():
        value = weights.get(key, torch.zeros((), dtype=target.dtype, device="cpu"))
        copies[names[key]] = value.detach().to("cpu", target.dtype, copy=True).contiguous()
    module.load_state_dict(copies, assign=True)
    return module.eval()


def _renamed(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    today: dict[str, str] = {}
    for prefix, part in module.named_modules():
        start = f"{prefix}." if prefix else ""
        today |= {start + old: start + new for old, new in getattr(part, "former_keys", {}).items()}
    return {today.get(key, key): value for key, value in weights.items()}


def _raise_if_any(problems: Collection[str]) -> None:
    if problems:
        raise ValueError(some(problems, width=160, separator="; "))


def _wrong(key: str, value: Tensor, target: Tensor) -> str | None:
    """The rule that a tensor of the right shape breaks, and what was got instead."""
    if value.layout is not torch.strided:
        return f"a dense tensor, got {value.layout}"
    if value.is_quantized or value.is_meta:
        return f"plain numbers, got {'a tensor of the meta device' if value.is_meta else value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"stored in full, got {tuple(value.shape)} out of {value.untyped_storage().nbytes()} bytes"
    if not target.is_floating_point():
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
        return None if whole else f"of integers, got {value.dtype}"
    if not value.is_floating_point():
        return f"of a floating dtype, got {value.dtype}"
    if not value.to(target.dtype).isfinite().all():
        return "finite, got inf or nan; did training diverge?"
    if key.endswith("running_var") and value.min() < 0:
        return f"variances, at least 0, got {value.min().item():.3g}"
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text goes on to advise against its own protection
        return "it holds more than tensors and plain containers, or is damaged"
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]
