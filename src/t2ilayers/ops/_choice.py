"""Which implementation runs: native kernels where they can, the reference where they cannot or must not."""

from __future__ import annotations

import functools
import threading
import warnings

import torch

from . import _native, _native_chain, build
from ._options import IMPLS, Impl, check_word
from ._torch import constant_result, transformed

_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
_registering = threading.Lock()
_warned: set[str] = set()


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """One sentence on why the kernels cannot run on such an x, or None; a first call may compile them."""
    if dtype not in _DTYPES:
        return f"native kernels know no {dtype}"
    if device == "cuda" and dtype == torch.float64:
        return "the CUDA kernels compute in float32 and take no float64"
    if reason := build.why_not(device):
        return reason
    with _registering:  # of threads that come here first, one registers
        return _register()


@functools.cache
def _register() -> str | None:
    try:
        _native.register()
        _native_chain.register()
    except (AttributeError, RuntimeError) as error:
        return f"the library that was loaded lacks an op ({error}); delete it to build it anew"
    return None


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
