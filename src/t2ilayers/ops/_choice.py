"""Which implementation runs: native kernels where they can, the reference where they cannot or must not."""

from __future__ import annotations

import warnings

import torch

from ._native import why_not
from ._options import IMPLS, Impl, check_word
from ._torch import constant_result, transformed

_warned: set[str] = set()


def runs_native(device: str, dtype: torch.dtype, impl: Impl, missing: str | None) -> bool:
    """Whether a call on such an x goes to native kernels.

    Args:
        device: type of the device of x.
        dtype: of x.
        impl: what the caller asked for.
        missing: what of the call the kernels lack, where they are; no warning is due for that.

    Raises:
        RuntimeError: ``impl="native"`` where no native kernel can run.
        ValueError: ``impl`` is not a known word.
    """
    check_word("impl", impl, IMPLS)
    # An exported program must run where this library is not, so it gets ordinary operations.
    compiling = torch.compiler.is_compiling()
    if not (torch.compiler.is_exporting() if compiling else transformed()):
        return takes_native(device, dtype, impl, missing)
    if impl == "native" and not compiling:
        raise RuntimeError(
            'impl="native" was asked for, but torch.jit.trace, torch.func transforms and forward-mode derivatives '
            'need ordinary operations; use impl="auto" or impl="reference"'
        )
    return False


@constant_result
def takes_native(device: str, dtype: torch.dtype, impl: Impl, missing: str | None = None) -> bool:
    """Whether native kernels run here. A first call may compile them, which must not be traced."""
    if impl == "reference":
        return False
    reason = missing or why_not(device, dtype)
    if reason is None:
        return True
    if impl == "native":
        raise RuntimeError(f'impl="native" was asked for, but {reason}; use impl="auto" or impl="reference"')
    if missing is None and reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"a slower reference runs instead of native kernels: {reason}", RuntimeWarning, stacklevel=4)
    return False
