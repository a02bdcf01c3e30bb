"""``python -m t2ilayers.doctor``: what native kernels need, what of it is here, and what tensors will use."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from . import __version__
from .ops import _cache, _choice, _compilers, build


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m t2ilayers.doctor") -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Show what native kernels need, what of it is here, and what tensors will use. "
        "Compiles nothing unless told to.",
    )
    parser.add_argument(
        "--build",
        action="store_true",
        help="compile now what is not built yet, for CPU and, if torch is built for CUDA, for CUDA; "
        "fail with the compiler's message",
    )
    options = parser.parse_args(arguments)
    try:
        if options.build:
            for device in ("cpu", "cuda") if torch.version.cuda else ("cpu",):
                build.build(device)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for name, value in report():
        print(f"{name:<17}{value}")
    return 0


def report() -> Iterator[tuple[str, str]]:
    """Name and value of every line; compiles nothing."""
    yield "t2ilayers", __version__
    yield "torch", f"{torch.__version__}, built for CUDA {torch.version.cuda or '(none)'}"
    yield "Python", platform.python_version()
    yield "platform", platform.platform()
    yield "C++ compiler", _answer(_compilers.find_compiler, "cpu")
    yield "ninja", build.find_ninja() or "none; setuptools starts the compilers"
    yield "CUDA compiler", _answer(_compilers.find_compiler, "cuda")
    gpus = range(torch.cuda.device_count() if build.no_device("cuda") is None else 0)
    yield "GPUs", ", ".join(torch.cuda.get_device_name(i) for i in gpus) or "none"
    yield "carried library", _answer(_carried)
    yield "cache", _answer(_cache.folder)
    yield "T2ILAYERS_BUILD", os.environ.get("T2ILAYERS_BUILD", "not set") + " (0 forbids compiling)"
    yield "CPU library", _answer(_library, "cpu")
    yield "CUDA library", _answer(_library, "cuda")
    yield "CPU tensors", _answer(_used, "cpu")
    yield "CUDA tensors", _answer(_used, "cuda")


def _answer(question: Callable[..., object], *args: str) -> str:
    """What it returns, or the sentence with which it fails."""
    try:
        return str(question(*args))
    except RuntimeError as error:
        return str(error).splitlines()[0]


def _carried() -> object:
    return build.find_carried() or "none; wheels for one platform bring one"


def _library(device: str) -> object:
    missing = "not built" if build.no_device(device) else "not built yet; the first use compiles it"
    return build.find(device) or missing


def _used(device: str) -> str:
    """What tensors of a device use. Loads libraries that are built, but builds none."""
    if build.no_device(device) is None:
        try:
            if None in (build.find("cpu"), build.find(device)):
                return "native kernels, once compiled"
        except RuntimeError as error:
            return f"the reference: {str(error).splitlines()[0]}"
    if reason := _choice.why_not(device, torch.float32):
        return f"the reference: {reason}"
    return f"native kernels, {torch.ops.t2ilayers.cpu_capability()}" if device == "cpu" else "native kernels"


if __name__ == "__main__":
    sys.exit(main())
