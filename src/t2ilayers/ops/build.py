"""Native kernels: find a built library, or compile one on first use, and load it. Only this file knows compilers.

There are two libraries: "cpu" defines the ops and their CPU kernels, "cuda" adds CUDA kernels to the same ops.
They are made of the sources in ``csrc`` against torch's stable ABI, by running the compilers directly:
``torch.utils.cpp_extension`` finds no CUDA toolkit where torch is built without CUDA, and needs ninja and
setuptools. A library's name carries a key of all that it is made of, so a stale one is never loaded.

The environment variable ``T2ILAYERS_BUILD=0`` forbids compiling; libraries built before are still used.
``XDG_CACHE_HOME``, ``CXX`` and ``CUDA_HOME`` have their usual meaning.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

ARCHITECTURES = (80, 90, 100)
"""What the CUDA library is compiled for where no GPU is present to tell; newer ones run the newest one's PTX."""

_SOURCES = Path(__file__).parent / "csrc"
_PREBUILT = Path(__file__).parent / "lib"
_SUFFIX = {"cpu": ".cpp", "cuda": ".cu"}  # every other file of the tree counts as a header of both
_DEFINES = ("-DTORCH_TARGET_VERSION=0x020b000000000000",)  # torch 2.11 and later
_COMPILE = {
    "cpu": ("-O3", "-std=c++17", *_DEFINES, "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    "cuda": (
        *("-O3", "-std=c++17", *_DEFINES, "-DUSE_CUDA", "--threads=0"),
        "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off",
    ),
}
_LINK = {
    "cpu": ("-shared", "-ltorch_cpu"),
    # Only a torch built for CUDA has libtorch_cuda. Sources declare what they take from it weak, to load without
    # it as well, and a linker may drop a library of which nothing but weak symbols are wanted.
    "cuda": ("-shared", "--cudart=static", "-Xlinker=--no-as-needed", "-ltorch_cpu")
    + (("-ltorch_cuda",) if torch.version.cuda else ()),
}

_log = logging.getLogger("t2ilayers")
_lock = threading.RLock()
_outcomes: dict[str, str | None] = {}  # device: why its library was not loaded


class Compiler(NamedTuple):
    """How to call a compiler, and which one it is."""

    command: tuple[str, ...]
    version: str  # all that --version prints

    def __str__(self) -> str:
        release = re.search(r".*\brelease\b.*", self.version)  # nvcc's first line is but a title
        return f"{shlex.join(self.command)}: {release[0] if release else self.version.partition(chr(10))[0]}"


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
        compiler = find_compiler(device)
        path = cache_folder() / f"{_name(device, wanted)}-{_digest(compiler.version)}.so"
        _build(path, device, wanted, compiler)
    return path


def find(device: str, *, architectures: Sequence[int] | None = None) -> Path | None:
    """The library built for a device, in the package or the cache; None where :func:`build` would compile it.

    Raises:
        RuntimeError: there is none, and none can be compiled here, with the reason.
    """
    if device not in _SUFFIX:
        raise RuntimeError(no_device(device))
    names = [_name(device, wanted) for wanted in _wanted(device, architectures)]
    problem = None
    try:
        _check_allowed()
        tag = _digest(find_compiler(device).version)
    except RuntimeError as error:
        problem, tag = error, "*"  # nothing to compile anew with, so any compiler's work will do
    for name in names:
        if built := [*_PREBUILT.glob(f"{name}-*.so"), *cache_folder().glob(f"{name}-{tag}.so")]:
            return built[0]
    if problem is not None:
        raise problem
    return None


def find_compiler(device: str) -> Compiler:
    """The C++ compiler (``CXX``, else the usual names) or nvcc (``CUDA_HOME``, else PATH and its usual place).

    Raises:
        RuntimeError: there is none that runs, or nvcc and torch are of different major versions of CUDA.
    """
    if device == "cpu":
        variable, kind, names = "CXX", "C++ compiler", ["c++", "g++", "clang++"]
        chosen = shlex.split(os.environ.get(variable, ""))
    else:
        variable, kind, names = "CUDA_HOME", "CUDA compiler", ["nvcc", "/usr/local/cuda/bin/nvcc"]
        chosen = [str(Path(home) / "bin" / "nvcc")] if (home := os.environ.get(variable)) else []
    program = next((path for name in chosen[:1] or names if (path := shutil.which(name))), None)
    if program is None:
        if chosen:
            raise RuntimeError(f"no {kind}: {variable}={os.environ[variable]!r} leads to no program")
        raise RuntimeError(f"no {kind}: found none of {', '.join(names)}; install one, or set {variable}")
    command = (program, *chosen[1:])
    version = _run([*command, "--version"], f"{shlex.join(command)} does not run").strip()
    release = re.search(r"release (\d+)", version)
    if device == "cuda" and torch.version.cuda and release and release[1] != torch.version.cuda.split(".")[0]:
        raise RuntimeError(
            f"{program} is of CUDA {release[1]}, but torch was built for CUDA {torch.version.cuda}; "
            f"set CUDA_HOME to a toolkit of the same major version"
        )
    return Compiler(command, version)


def cache_folder() -> Path:
    """Where compiled libraries are kept: ``t2ilayers`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "t2ilayers"


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


def _name(device: str, architectures: tuple[int, ...]) -> str:
    """File name without the compiler's part, which a library found ready-made may differ in."""
    others = set(_SUFFIX.values()) - {_SUFFIX[device]}
    files = [
        (p.name, p.read_bytes()) for p in sorted(_SOURCES.rglob("*")) if p.is_file() and p.suffix not in others
    ]
    versions = (str(torch.__version__), torch.version.cuda, sys.platform, platform.machine())
    return f"t2ilayers_{device}-{_digest((files, _COMPILE[device], _LINK[device], versions, architectures))}"


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _build(path: Path, device: str, architectures: tuple[int, ...], compiler: Compiler) -> None:
    import fcntl  # not on Windows

    cache = path.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # The kernel releases the lock with the process, however that ends. Compilers do not inherit it.
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return
            for left in cache.glob(f"{path.stem}.*.tmp"):  # by a killed process, whose compilers may still write
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", suffix=".tmp", dir=cache) as folder:
                _log.info("compiling native kernels for %s into %s", device, path)
                _compile(Path(folder), device, architectures, compiler)
                if not path.name.startswith(_name(device, architectures)):
                    raise RuntimeError(f"{_SOURCES} changed while being compiled; try again")
                (Path(folder) / "library.so").replace(path)
    except OSError as error:
        raise RuntimeError(
            f"the cache folder {cache} cannot be written ({error.strerror}); set XDG_CACHE_HOME to one that can"
        ) from error


def _compile(folder: Path, device: str, architectures: tuple[int, ...], compiler: Compiler) -> None:
    torch_folder = Path(torch.__file__).parent
    sources = sorted(_SOURCES.rglob(f"*{_SUFFIX[device]}"))
    if not sources:
        raise RuntimeError(f"this installation has no sources for {device} in {_SOURCES}")
    flags = [*_COMPILE[device], f"-I{torch_folder / 'include'}"]
    libraries = [f"-L{torch_folder / 'lib'}", *_LINK[device]]
    if device == "cuda":
        both = _targets(architectures, compiler)  # linking adds a stub for an architecture, by default the oldest
        if cxx := shlex.split(os.environ.get("CXX", "")):
            both.append(f"-ccbin={cxx[-1]}")  # the last word: those before it are wrappers such as ccache
        flags += both
        libraries += both
    else:
        libraries.append(f"-Wl,-rpath,{torch_folder / 'lib'}")  # macOS finds even a loaded library by its path

    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.name}.o")
        _run([*compiler.command, *flags, "-c", str(source), "-o", target], f"compiling {source.name} failed")
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    library = str(folder / "library.so")
    _run([*compiler.command, *objects, *libraries, "-o", library], f"linking for {device} failed")


def _targets(architectures: tuple[int, ...], nvcc: Compiler) -> list[str]:
    """Machine code for each architecture that this nvcc knows, and PTX of the newest, for those after it."""
    listed = _run([*nvcc.command, "--list-gpu-code"], "nvcc does not list its architectures")
    known = {int(number) for number in re.findall(r"\bsm_(\d+)\b", listed)}
    newest = max((a for a in known if a <= max(architectures)), default=None)
    if newest is None:
        raise RuntimeError(f"{nvcc} compiles for none of the architectures {architectures}")
    codes = [(a, f"sm_{a}") for a in architectures if a in known] + [(newest, f"compute_{newest}")]
    return [f"-gencode=arch=compute_{a},code={code}" for a, code in codes]


def _run(command: list[str], failure: str) -> str:
    """Output of a command. RuntimeError with ``failure``, the command and the output's tail if it fails."""
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise RuntimeError(f"{failure} ({error})") from error
    if result.returncode != 0:
        tail = "\n".join(result.stdout.splitlines()[-30:])
        hint = "python -m t2ilayers.doctor --build shows why"
        raise RuntimeError(f"{failure}; {hint}\n{shlex.join(command)}\n{tail}")
    return result.stdout
