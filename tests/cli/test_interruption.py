"""Training that is killed, stopped or out of disk, as it happens: real processes, signals and limits."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import time

import pytest

from t2ilayers import SSAGAN
from t2ilayers.training import latest_checkpoint, load_checkpoint

from sameness import same
from scripts import command, flags, train


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    result = train(out, "--save-every", "1")
    assert result.returncode == 0, result.stderr
    return out


@contextlib.contextmanager
def running(out, *more):
    with subprocess.Popen(
        command("train", *flags(out, *more)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            yield run
        finally:
            run.kill()


def wait_for(run, folder, pattern):
    """Until ``folder`` holds such a file, or the run has ended, or two minutes are over."""
    deadline = time.monotonic() + 120
    while run.poll() is None and not any(folder.glob(pattern)) and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=0.002)


def test_killed_twice_once_while_it_saved_it_resumes_to_identical_weights_and_optimizers(whole_run, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    with running(tmp_path, "--save-every", "1") as run:
        wait_for(run, checkpoints, "step_00000002.pt")
        run.kill()
    with running(tmp_path, "--save-every", "1", "--resume") as run:
        wait_for(run, checkpoints, "step_00000003.pt")
        torn = False
        while not torn and run.poll() is None:
            wait_for(run, checkpoints, ".step_*.tmp")
            run.send_signal(signal.SIGSTOP)  # so that the save cannot end between the look and the kill
            torn = any(checkpoints.glob(".step_*.tmp"))
            run.send_signal(signal.SIGKILL if torn else signal.SIGCONT)
    assert torn
    for path in checkpoints.glob("*.pt"):
        load_checkpoint(path)

    result = train(tmp_path, "--save-every", "1", "--resume", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert not any(checkpoints.glob(".*"))
    ours, theirs = (load_checkpoint(latest_checkpoint(out / "checkpoints")) for out in (tmp_path, whole_run))
    assert {"model", "ema", "g_optimizer", "d_optimizer", "encoder_optimizer"} <= ours.keys()
    assert [key for key in ours if key != "flags" and not same(ours[key], theirs[key])] == []
    ours, theirs = (SSAGAN.from_pretrained(out / "model").state_dict() for out in (tmp_path, whole_run))
    assert same(dict(ours), dict(theirs))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(6))


def test_a_full_disk_costs_no_checkpoint_and_no_traceback(tmp_path):
    """The kernel refuses to write more than 16 MiB into a file, a third of a checkpoint."""
    checkpoints = tmp_path / "checkpoints"
    with running(tmp_path, "--save-every", "1", "--steps", "100000") as run:
        wait_for(run, checkpoints, "step_00000002.pt")
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (2**24, 2**24))
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 2
    assert re.search(r"t2ilayers train: .*File too large: .*step_\d{8}\.pt", errors)
    assert "Traceback" not in errors
    assert not any(checkpoints.glob(".*"))
    kept = sorted(checkpoints.iterdir())
    assert len(kept) == 2
    assert [load_checkpoint(path)["step"] for path in kept] == [int(path.stem[5:]) for path in kept]


def test_ctrl_c_ends_with_a_checkpoint(tmp_path):
    with running(tmp_path, "--steps", "100000") as run:
        wait_for(run, tmp_path / "checkpoints", "step_00000004.pt")
        os.kill(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 130
    assert re.search(r"the last good checkpoint is .*step_\d{8}\.pt; the same flags and --resume continue", errors)
    assert "Traceback" not in errors
    last = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert last["step"] == json.loads(rows[-1])["step"] + 1
