"""The precision that networks are run in while they train."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def fastest_precision(device: torch.device | None = None) -> Precision:
    """``"bf16"`` where a device has units that multiply matrices in it, else ``"fp32"``.

    They are in CUDA GPUs from Ampere on, and in CPUs with AMX. On a Xeon with AMX an iteration takes 0.56 of the
    time of one in float32 (``benchmarks/model.py --as-users-run``), and 1.4 times as long with AMX switched off by
    ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16``, which leaves only vector instructions. No GPU was measured.

    Args:
        device: by default the accelerator or, where there is none, the CPU.

    Example:
        >>> fastest_precision() in ("bf16", "fp32")
        True
    """
    if device is None and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    if device is None or device.type == "cpu":
        supported = torch.cpu.get_capabilities().get("amx_bf16", False)
    else:
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if supported else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of ``precision`` on ``device``.

    Example:
        >>> with autocast(torch.device("cpu"), "bf16"):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
