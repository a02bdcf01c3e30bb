"""`make cuda-check`: compile, link and load the CUDA library for all architectures; see that it lacks no kernel.

That needs nvcc, but neither a GPU nor a torch that is built for CUDA.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import torch

from t2ilayers.ops import build


def main() -> int:
    try:
        for line in cuda_check():
            print(line)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def cuda_check() -> Iterator[str]:
    """Lines on what was checked. RuntimeError at the first thing that is wrong."""
    path = build.build("cuda", architectures=build.ARCHITECTURES)
    yield f"compiled and linked: {path}"
    if cuobjdump := shutil.which("cuobjdump"):
        options = ("--list-elf", "--list-ptx")
        listing = "".join(subprocess.check_output([cuobjdump, o, str(path)], text=True) for o in options)
        found = sorted(set(re.findall(r"\.(sm_\d+\.(?:cubin|ptx))", listing)))
        newest = max(build.ARCHITECTURES)
        expected = sorted([*(f"sm_{a}.cubin" for a in build.ARCHITECTURES), f"sm_{newest}.ptx"])
        if found != expected:
            raise RuntimeError(f"the library should hold {expected}, got {found}")
        yield f"holds: {' '.join(found)}"
    if reason := build.why_not("cpu"):
        raise RuntimeError(reason)
    build.load_library(path)
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("t2ilayers::") and kernel(n, "CPU")]
    if lacking := [n for n in names if not kernel(n, "CUDA")]:
        raise RuntimeError(f"these ops have a CPU kernel but no CUDA kernel: {lacking}")
    yield f"loaded: {len(names)} ops have a CPU and a CUDA kernel"
    if reason := build.no_device("cuda"):
        yield f"not run: {reason}"


if __name__ == "__main__":
    sys.exit(main())
