"""The compilers of this machine: finding them, their options, and running them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import torch


class Compiler(NamedTuple):
    """How to call a compiler, and which one it is."""

    command: tuple[str, ...]
    version: str  # all that --version prints

    @property
    def key(self) -> str:
        """Its part of a library's name: what it is and is told, not where it lies."""
        return digest((self.command[1:], self.version))

    def __str__(self) -> str:
        release = re.search(r".*\brelease\b.*", self.version)  # nvcc's first line is but a title
        return f"{shlex.join(self.command)}: {release[0] if release else self.version.partition(chr(10))[0]}"


def digest(value: object) -> str:
    """Sixteen characters that tell values apart by their ``repr``."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def find_compiler(device: str) -> Compiler:
    """The C++ compiler (``CXX``, else the usual names) or nvcc (``CUDA_HOME``, else PATH and its usual place).

    Raises:
        RuntimeError: there is none that runs, or nvcc and torch are of different major versions of CUDA.
    """
    try:
        cxx = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise RuntimeError(f"CXX must be a command, got {os.environ['CXX']!r} ({error})") from error
    if device == "cpu":
        variable, kind, names = "CXX", "C++ compiler", ["c++", "g++", "clang++"]
        chosen = cxx
    else:
        variable, kind, names = "CUDA_HOME", "CUDA compiler", ["nvcc", "/usr/local/cuda/bin/nvcc"]
        chosen = [str(Path(home) / "bin" / "nvcc")] if (home := os.environ.get(variable)) else []
    program = next((path for name in chosen[:1] or names if (path := shutil.which(name))), None)
    if program is None:
        if chosen:
            raise RuntimeError(f"no {kind}: {variable}={os.environ[variable]!r} leads to no program")
        raise RuntimeError(f"no {kind}: found none of {', '.join(names)}; install one, or set {variable}")
    command = [program, *chosen[1:]]
    if device == "cuda" and cxx:
        command.append(f"-ccbin={cxx[-1]}")  # the last word: those before it are wrappers such as ccache
    version = run([*command, "--version"], f"{shlex.join(command)} does not run").strip()
    release = re.search(r"release (\d+)", version)
    if device == "cuda" and torch.version.cuda and release and release[1] != torch.version.cuda.split(".")[0]:
        raise RuntimeError(
            f"{program} is of CUDA {release[1]}, but torch was built for CUDA {torch.version.cuda}; "
            f"set CUDA_HOME to a toolkit of the same major version"
        )
    return Compiler(tuple(command), version)


def gencode_flags(architectures: tuple[int, ...], nvcc: Compiler) -> list[str]:
    """Machine code for each architecture that this nvcc knows, and PTX of the newest one for later ones."""
    listed = run([*nvcc.command, "--list-gpu-code"], "nvcc does not list its architectures")
    known = {int(number) for number in re.findall(r"\bsm_(\d+)\b", listed)}
    newest = max((a for a in known if a <= max(architectures)), default=None)
    if newest is None:
        raise RuntimeError(f"{nvcc} compiles for none of the architectures {architectures}")
    codes = [(a, f"sm_{a}") for a in architectures if a in known] + [(newest, f"compute_{newest}")]
    return [f"-gencode=arch=compute_{a},code={code}" for a, code in codes]


def run(
    command: list[str],
    failure: str,
    *,
    limit: float = 60.0,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Output of a command.

    The command and all that it has started are ended after ``limit`` seconds, on Ctrl-C, and one second after
    ninja says that a file has failed, so that nobody waits for the other files.

    Raises:
        RuntimeError: it failed. The first line is ``failure`` and the cause; its command and last lines follow.
    """
    try:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise RuntimeError(f"{failure} ({error})") from error

    closed = threading.Event()

    def end() -> None:
        if sys.platform == "win32":
            process.kill()
            return
        # ninja puts each compiler into a group of its own, and ends them when it is asked to end, not when killed.
        for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            if closed.wait(seconds):
                return

    lines: list[str] = []
    start = time.monotonic()
    timer = threading.Timer(limit, end)
    timer.start()
    try:
        with process:
            try:
                for line in process.stdout or ():
                    lines.append(line)
                    if line.startswith("FAILED: "):
                        timer.cancel()
                        timer = threading.Timer(1, end)
                        timer.start()
            except BaseException:
                ending = threading.Thread(target=end)
                ending.start()
                for _ in process.stdout or ():  # until all are gone that could write to it
                    pass
                raise
            finally:
                closed.set()
    finally:
        timer.cancel()
    if process.returncode != 0:
        cause = next((line for line in lines if re.search(r"\berror\b", line)), (lines or [""])[-1]).strip()
        if time.monotonic() - start > limit:
            cause = f"ended after {limit:g} s"
        tail = "".join(lines[-40:])
        hint = "python -m t2ilayers.doctor --build shows why"
        cause = cause.replace(f"{cwd}/", "")
        raise RuntimeError(f"{failure} ({cause:.200}); {hint}\n{shlex.join(command)}\n{tail}")
    return "".join(lines)
