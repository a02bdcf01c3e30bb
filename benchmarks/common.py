"""What the benchmarks share: timing of peers in turn, memory, and the record of machine and versions."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from t2ilayers._files import written_whole

# On a machine that is lent for one command, what lies under $OUT comes back.
RESULTS = Path(os.environ.get("OUT") or Path(__file__).parent / "results")


def environment(device: str) -> dict[str, Any]:
    """Machine, versions, commit and command: what a figure needs beside it."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "../src", "*.py")
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    found = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit + (" with changes" if changed else "") if commit else "unknown",
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def _git(*arguments: str) -> str:
    """What git says; nothing where there is no git, or no repository, as in a copy of the sources."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _seconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """Of one call, as the mean over ``repeats`` of them back to back."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], device: str, *, seconds: float = 1.0, rounds: int = 15
) -> dict[str, dict[str, float]]:
    """Median and quartiles in milliseconds of each call, the peers taking turns in every round.

    Turns let all of them meet the machine's moods alike. Each gets about ``seconds`` in all. A fifth as many calls
    before each turn do not count: what another peer left in caches and branch predictors makes the first ten calls
    of a small op up to twice as slow.
    """
    repeats = {}
    for name, call in calls.items():
        call()  # compiles, warms up
        call()
        once = min(_seconds(call, device, 1) for _ in range(3))
        repeats[name] = max(1, int(seconds / rounds / max(once, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(repeats[name] // 5):
                call()
            samples[name].append(1e3 * _seconds(call, device, repeats[name]))
    table = {}
    for name, values in samples.items():
        low, middle, high = statistics.quantiles(values, n=4)
        table[name] = {"median_ms": middle, "quartile1_ms": low, "quartile3_ms": high, "best_ms": min(values)}
    return table


def in_rotation(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """A call of the next one each time. With inputs of their own they find none of them in a cache."""
    turns = itertools.cycle(calls)
    return lambda: next(turns)()


def graphed(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One call that replays a CUDA graph of all ``calls``: what the device takes, without the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Most memory held at a time by what one call allocated, after it was called before."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def write(name: str, record: Mapping[str, Any]) -> Path:
    """``record`` as JSON under ``$OUT`` if that is set, else under ``benchmarks/results``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    return path
