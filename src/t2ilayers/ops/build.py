"""Native kernels: find a built library, or compile one on first use, and load it.

There are two libraries: "cpu" defines the ops and their CPU kernels, "cuda" adds CUDA kernels to the same ops.
``torch.utils.cpp_extension`` makes them of the sources in ``csrc`` against torch's stable ABI, in a process of its
own (``_compile.py``), with ninja where it is installed. A library's name carries a key of all that it is made of,
so a stale one is never loaded. A wheel for one platform carries the CPU library ready-made, in the folder
``libraries`` beside this file, for every torch whose ABI it was made for.

The environment variable ``T2ILAYERS_BUILD=0`` forbids compiling; libraries built before are still used.
``XDG_CACHE_HOME``, ``CXX``, ``CUDA_HOME`` and ``MAX_JOBS``, how many files ninja compiles at once, have their
usual meaning.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from . import _cache
from ._compilers import Compiler, digest, find_compiler, gencode_flags, run

ARCHITECTURES = (80, 90, 100)
"""What the CUDA library is compiled for where no GPU is present to tell; newer ones run the newest one's PTX."""

_SOURCES = Path(__file__).parent / "csrc"
_COMPILE = Path(__file__).parent / "_compile.py"
_CARRIED = Path(__file__).parent / "libraries"  # of a wheel for one platform; see hatch_build.py
_LIMIT = 900.0  # seconds for compiling one library; the CPU's takes a minute
_SUFFIX = {"cpu": ".cpp", "cuda": ".cu"}  # every other file of the tree counts as a header of both
_DEFINES = ("-DTORCH_TARGET_VERSION=0x020b000000000000",)  # torch 2.11 and later
# Kernels on both sides say themselves where a multiplication and an addition are one operation.
_FLAGS = {
    "cpu": ("-O2", "-std=c++17", *_DEFINES, "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    "cuda": (
        *("-O3", "-std=c++17", *_DEFINES, "-DUSE_CUDA", "--threads=0", "-fmad=false"),
        "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off",
    ),
}
_LINK = {
    "cpu": ("-shared",),
    # Only a torch built for CUDA has libtorch_cuda. Sources declare what they take from it weak, to load without
    # it as well, and a linker may drop a library of which nothing but weak symbols are wanted.
    "cuda": ("-shared", "--cudart=static", "-Xlinker=--no-as-needed")
    + (("-ltorch_cuda",) if torch.version.cuda else ()),
}

_lock = threading.RLock()
_outcomes: dict[str, str | None] = {}  # device: why its library was not loaded


def why_not(device: str) -> str | None:
    """One sentence on why native kernels cannot run on tensors of a device type, or None where they can.

    The first call of a process finds or builds the library and loads it; later ones repeat its answer.

    Example:
        >>> why_not("mps")
        "native kernels exist for CPU and CUDA tensors only, got 'mps'"
    """
    if device not in _outcomes:
        with _lock:
            if device not in _outcomes:
                _outcomes[device] = _load(device)
    return _outcomes[device]


def no_device(device: str) -> str | None:
    """One sentence on why no tensor of a device type could use native kernels here, or None.

    Example:
        >>> no_device("cpu") is None
        True
    """
    if device not in _SUFFIX:
        return f"native kernels exist for CPU and CUDA tensors only, got {device!r}"
    if device == "cuda":
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is built without CUDA"
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
    return None


def build(device: str = "cpu", *, architectures: Sequence[int] | None = None) -> Path:
    """Compile the library of a device into the cache, unless it is there, and return its path.

    First use does this by itself. Calling it is for containers and for machines that share a home folder:
    build once, before processes are many or compilers gone.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        architectures: compute capabilities such as ``[80, 90]``, for CUDA only. By default those of the GPUs
            present, or :data:`ARCHITECTURES` where there is none.

    Raises:
        RuntimeError: no compiler, building forbidden, the compiler's message, or a cache not writable. The first
            line is the reason in a sentence.

    Example:
        >>> build("mps")
        Traceback (most recent call last):
        RuntimeError: native kernels exist for CPU and CUDA tensors only, got 'mps'
    """
    path = find(device, architectures=architectures)
    if path is None:
        wanted = _wanted(device, architectures)[0]
        sources, compiler = _read_sources(device), find_compiler(device)
        work = partial(_compile, device=device, sources=sources, architectures=wanted, compiler=compiler)
        path = _cache.make(f"{_key(device, sources, wanted)}-{compiler.key}", work)
    return path


def find(device: str, *, architectures: Sequence[int] | None = None) -> Path | None:
    """The library built for a device; None where :func:`build` would compile it.

    Raises:
        RuntimeError: there is none, and none can be compiled here, with the reason.
    """
    if device not in _SUFFIX:
        raise RuntimeError(no_device(device))
    problem = None
    sources = _read_sources(device)
    if device == "cpu":
        try:
            if path := find_carried(sources):
                return path
        except RuntimeError as error:
            problem = error
    try:
        _check_allowed()
        compiler, problem = find_compiler(device).key, None
    except RuntimeError as error:
        # Nothing to compile anew with, so any compiler's work will do.
        problem, compiler = problem or error, "*"
    for wanted in _wanted(device, architectures):
        if path := _cache.find(f"{_key(device, sources, wanted)}-{compiler}"):
            return path
    if problem is not None:
        raise problem
    return None


def find_carried(sources: dict[str, bytes] | None = None) -> Path | None:
    """The CPU library that this installation came with, or None.

    Raises:
        RuntimeError: others could change it, or the folder cannot be read.
    """
    return _cache.find(carried_key(sources), _CARRIED, "install t2ilayers into a folder that is yours alone")


def carried_key(sources: dict[str, bytes] | None = None) -> str:
    """The name of the CPU library in a wheel, but for the digest of its bytes at the end.

    Neither torch's version nor the compiler's is in it: the library is made to run with every later torch.
    """
    how = (_FLAGS["cpu"], _LINK["cpu"])
    return f"t2ilayers_cpu-{digest((sources or _read_sources('cpu'), how, sys.platform, platform.machine()))}"


def load_library(path: Path) -> None:
    """Load a library into torch; RuntimeError in one sentence if that fails."""
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise RuntimeError(f"{path} cannot be loaded ({error.__cause__}); delete it to build it anew") from error


def _load(device: str) -> str | None:
    if reason := no_device(device):
        return reason
    if device == "cuda" and (reason := why_not("cpu")):
        return f"the ops are defined in the CPU library, and {reason}"
    try:
        load_library(build(device))
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def _check_allowed() -> None:
    if os.environ.get("T2ILAYERS_BUILD") == "0":
        raise RuntimeError("no library is built, and T2ILAYERS_BUILD=0 forbids compiling one")
    if sys.platform == "win32":
        raise RuntimeError("native kernels need GCC or clang and are not built on Windows")


def _wanted(device: str, architectures: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Architectures of the libraries that would serve, the one to compile first."""
    if device == "cpu":
        if architectures is not None:
            raise ValueError(f'architectures are for device="cuda" only, got {architectures}')
        return [()]
    if architectures is not None:
        return [tuple(sorted(set(architectures)))]
    if no_device(device):
        return [ARCHITECTURES]
    capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    present = tuple(sorted(10 * major + minor for major, minor in capabilities))
    return [present, ARCHITECTURES] if present[0] >= ARCHITECTURES[0] else [present]


def _read_sources(device: str) -> dict[str, bytes]:
    """What a library is made of, read once: so what is compiled is what its key says, even while files change."""
    others = set(_SUFFIX.values()) - {_SUFFIX[device]}
    paths = sorted(p for p in _SOURCES.rglob("*") if p.is_file() and p.suffix not in others)
    return {path.relative_to(_SOURCES).as_posix(): path.read_bytes() for path in paths}


def _key(device: str, sources: dict[str, bytes], architectures: tuple[int, ...]) -> str:
    """A library's name but for the compiler's part, in which one found ready-made may differ."""
    how = (_COMPILE.read_bytes(), _FLAGS[device], _LINK[device], architectures)
    where = (str(torch.__version__), torch.version.cuda, sys.platform, platform.machine())
    return f"t2ilayers_{device}-{digest((sources, how, where))}"


def _path() -> str:
    """Where programs are looked for: in PATH, and beside this Python, where pip puts ninja."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def find_ninja() -> str | None:
    """The ninja that compiles, or None where setuptools starts the compilers itself."""
    return shutil.which("ninja", path=_path())


def _compile(
    folder: Path, *, device: str, sources: dict[str, bytes], architectures: tuple[int, ...], compiler: Compiler
) -> bytes:
    names = [f"csrc/{name}" for name in sources if name.endswith(_SUFFIX[device])]
    if not names:
        raise RuntimeError(f"this installation has no sources for {device} in {_SOURCES}")
    for name, content in sources.items():
        path = folder / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if device == "cuda":
        targets = gencode_flags(architectures, compiler)  # linking adds a stub for one, by default the oldest
    else:
        targets = [f"-Wl,-rpath,{Path(torch.__file__).parent / 'lib'}"] if sys.platform == "darwin" else []
    job = {
        "device": device,
        "sources": names,
        "compiler": compiler.command,
        "cuda_home": str(Path(compiler.command[0]).parent.parent),
        "compile": [*_FLAGS[device], *compiler.command[1:], *targets] if device == "cuda" else _FLAGS[device],
        "linker": [*compiler.command, *_LINK[device], *targets],
    }
    # What would change the library without being in its key stays out, and whatever this process imports from.
    environment = {k: v for k, v in os.environ.items() if k not in ("CC", "PYTORCH_NVCC")} | {
        "CXX": compiler.command[0],  # ninja's, where one word is all
        "PATH": _path(),
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "PYTHONSAFEPATH": "1",
        "T2ILAYERS_BUILD": "0",  # should sys.executable be a program that uses this library
        "TORCH_DONT_CHECK_COMPILER_ABI": "1",  # the stable ABI is C's
        "TORCH_NO_COMPILER_WRAPPER": "1",
    }
    if sys.stderr:
        print(
            f"t2ilayers: compiling native kernels for {device.upper()} tensors, once, for "
            f"{'some minutes' if device == 'cuda' else 'about a minute'}; T2ILAYERS_BUILD=0 forbids it",
            file=sys.stderr,
            flush=True,
        )
    run(
        [sys.executable, "-W", "ignore", str(_COMPILE), json.dumps(job)],
        f"compiling the {device} library failed",
        limit=_LIMIT,
        cwd=folder,
        env=environment,
    )
    return (folder / "library.so").read_bytes()
