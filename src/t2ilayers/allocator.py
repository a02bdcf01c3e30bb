"""Advice to the C allocator, for training and sampling on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_large_blocks() -> bool:
    """Tell glibc's allocator to keep freed large blocks instead of handing them back to the kernel.

    By default glibc maps every block over some megabytes afresh and unmaps it when freed, so each feature
    map of each step pays a page fault for every 4 KiB. Keeping blocks costs memory that stays with the
    process. Affects the whole process, which is why importing the library never does it: call it once, at
    the start of a script.

    Returns:
        Whether the allocator took the advice; False where it is not glibc.

    Source: ``mallopt(3)``, M_MMAP_MAX and M_TRIM_THRESHOLD.

    Example:
        >>> keep_large_blocks() in (True, False)
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have no such function
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
