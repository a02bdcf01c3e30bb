"""How many threads compute on a CPU, and how they wait for each other. To be settled before torch is loaded.

OpenMP reads its settings once, when torch loads it. By default its threads spin for milliseconds while they wait
for each other. Where another process has the core of the one that they wait for, they keep it from getting one. So
they are told to sleep earlier. And their number follows the quota of a container, which OpenMP does not know.

What the environment already says of either, stays.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SPINS = 3000  # turns of GNU's OpenMP before a thread sleeps, less than 0.1 ms; by default 300,000


def quota(root: Path = Path("/")) -> float:
    """Processors' worth of time that Linux's control groups leave this process; infinite where they do not say."""
    return min(_quotas(root), default=math.inf)


def _quotas(root: Path) -> Iterator[float]:
    groups = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            # Version 2 has one tree for all controllers, version 1 one for each. A limit holds for all below it.
            tree = groups / "cpu" if controllers else groups
            for folder in (here := tree / path.lstrip("/"), *here.parents):
                if not folder.is_relative_to(tree):
                    break
                with suppress(OSError, ValueError, ZeroDivisionError):
                    if controllers:
                        most, period = (
                            (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
                        )
                    else:
                        most, period = (folder / "cpu.max").read_text().split()
                    if float(most) > 0:  # -1 or "max", which is no number, where there is none
                        yield float(most) / float(period)


def settle() -> None:
    """Put the settings into the environment."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    if math.isfinite(limit := quota()):
        here = len(os.sched_getaffinity(0))  # only Linux has quotas
        if math.ceil(limit) < here:
            os.environ.setdefault("OMP_NUM_THREADS", str(math.ceil(limit)))
