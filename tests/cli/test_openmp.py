"""Threads on a CPU: what the command line tells OpenMP, and that it is told in time."""

import math
import os
import subprocess
import sys

import pytest

from t2ilayers.cli import _openmp


@pytest.fixture
def openmp(monkeypatch):
    own = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in own})
    return _openmp


def grow(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


GROUPS = "sys/fs/cgroup"
TREES = {
    "no groups at all": ({}, math.inf),
    "version 2, no limit": ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "max 100000\n"}, math.inf),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, the least of those above": (
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            f"{GROUPS}/user.slice/cpu.max": "200000 100000\n",
            f"{GROUPS}/user.slice/job/cpu.max": "300000 100000\n",
        },
        2.0,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n",
            f"{GROUPS}/cpu/docker/a/cpu.cfs_quota_us": "50000\n",
            f"{GROUPS}/cpu/docker/a/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "version 1, the path is the host's": (
        {
            "proc/self/cgroup": "3:cpu:/docker/of/the/host\n",
            f"{GROUPS}/cpu/cpu.cfs_quota_us": "300000\n",
            f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "3:cpu:/\n",
            f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1\n",
            f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n",
        },
        math.inf,
    ),
    "nonsense": ({"proc/self/cgroup": "0::/a:b\n", f"{GROUPS}/cpu.max": "many\n"}, math.inf),
}


@pytest.mark.parametrize("tree", TREES)
def test_the_quota_is_that_of_the_control_groups(openmp, tmp_path, tree):
    files, expected = TREES[tree]
    grow(tmp_path, files)
    assert openmp.quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("limit", "threads"), [(math.inf, None), (64.0, None), (1.0, "1"), (0.3, "1"), (2.5, "3")]
)
def test_threads_follow_the_quota_where_it_is_less_than_the_processors(openmp, monkeypatch, limit, threads):
    monkeypatch.setattr(openmp, "quota", lambda: limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    openmp.settle()
    assert os.environ.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(
    "own",
    [
        {"GOMP_SPINCOUNT": "300000"},
        {"OMP_WAIT_POLICY": "ACTIVE"},
        {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "INFINITE"},
        {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "PASSIVE"},
    ],
)
def test_what_the_user_has_set_stays(openmp, monkeypatch, own):
    monkeypatch.setattr(openmp, "quota", lambda: 1.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    openmp.settle()
    found = {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ}
    assert found == {name: value for name, value in own.items() if name != "OMP_NUM_THREADS"}
    assert os.environ["OMP_NUM_THREADS"] == own.get("OMP_NUM_THREADS", "1")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch has GNU's OpenMP on Linux only")
def test_openmp_has_taken_the_settings_when_torch_is_there(openmp):
    """OMP_DISPLAY_ENV lets GNU's OpenMP print what it has read."""
    result = subprocess.run(
        [sys.executable, "-c", "import t2ilayers.cli, torch"],
        env={**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{openmp.SPINS}'" in result.stderr
