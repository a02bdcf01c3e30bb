"""A run in this process: whatever ends it leaves its last whole step, and only its own folder is continued."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tqdm import tqdm

from t2ilayers.data import CaptionedShapes
from t2ilayers.training import (
    NonFiniteLossError,
    Run,
    RunConfig,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from t2ilayers.training.run import _BAR, _duration

from sameness import same


@dataclasses.dataclass
class Config(RunConfig):
    may_change: ClassVar = (*RunConfig.may_change, "rate")
    batch_size: int = 2
    log_every: int = 1
    save_every: int = 100
    width: int = 3
    rate: float = 0.1


class Training:
    """A small network with running statistics, which can be told to fail in a step."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(12, 3), torch.nn.BatchNorm1d(3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def __call__(self, batch, fail=None, late=False):
        noise = torch.randn(2, 3)
        loss = (self.model(batch["image"][:, :, :2, :2].flatten(1)) + noise).square().mean()
        if fail is not None and not late:
            fail()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if fail is not None and late:
            fail()
        return {"a/loss": loss.detach()}


DATA = CaptionedShapes(8, image_size=16)


def go(out, stop=6, fail_at=None, data=DATA, training=None, after=None, **settings):
    """A run of ``stop`` steps; ``fail_at`` is a step, what is done in it, and whether that is after its update."""
    training = training or Training()
    at, fail, late = fail_at or (None, None, False)
    with Run(Config(out=out, **settings), training, training.model, data) as run:
        for step, batch in run.steps(stop):
            run.record(training(batch, fail if step == at else None, late))
            if after is not None:
                after(step)


def last(out):
    return load_checkpoint(latest_checkpoint(out / "checkpoints"))


def equal_runs(first, second):
    return all(same(first[key], second[key]) for key in first if key != "flags") and first.keys() == second.keys()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    go(out)
    return last(out)


def raising(error):
    def fail(*_):
        raise error

    return fail


SIGNALS = [
    name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name)
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_with_the_step_it_came_in(tmp_path, whole, name, workers, capsys, request):
    number = getattr(signal, name)
    if signal.getsignal(number) is signal.SIG_IGN:  # this suite itself runs under nohup
        signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))

    def to_all():  # as a cluster's signal to the process group reaches all
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, fail_at=(3, to_all, False), workers=workers)
    assert signal.getsignal(number) is before
    assert last(tmp_path)["step"] == 4
    assert "stopped; the last good checkpoint is" in capsys.readouterr().err
    go(tmp_path, resume=True, workers=workers)
    assert equal_runs(last(tmp_path), whole)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        go(tmp_path, fail_at=(2, lambda: os.kill(os.getpid(), signal.SIGHUP), False))
    finally:
        signal.signal(signal.SIGHUP, former)
    assert last(tmp_path)["step"] == 6


ERRORS = [RuntimeError("CUDA out of memory"), MemoryError(), OSError(28, "No space left on device"), KeyError("x"),
          KeyboardInterrupt()]  # fmt: skip


@pytest.mark.parametrize("late", [False, True], ids=["before its update", "after its update"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_within_a_step_leaves_the_step_before(tmp_path, whole, error, late):
    with pytest.raises(type(error)):
        go(tmp_path, fail_at=(3, raising(error), late))
    assert last(tmp_path)["step"] == 3
    go(tmp_path, resume=True)
    assert equal_runs(last(tmp_path), whole)


def test_where_the_step_before_cannot_be_brought_back_the_last_checkpoint_stays(tmp_path, whole, capsys):
    training = Training()

    def break_both():
        training.load_state_dict = raising(RuntimeError("CUDA error: device-side assert triggered"))
        raise MemoryError

    with pytest.raises(MemoryError):
        go(tmp_path, fail_at=(3, break_both, True), training=training, save_every=2)
    said = capsys.readouterr().err
    assert (
        "step 3 could not be saved (CUDA error: device-side assert triggered); the last good checkpoint is" in said
    )
    go(tmp_path, resume=True)
    assert equal_runs(last(tmp_path), whole)


class Vanishing(CaptionedShapes):
    """A picture that is gone after some have been read."""

    def image(self, index, rng=None):
        if index == 5 and rng is not None:  # for a batch; the digest before the first one still sees it
            raise FileNotFoundError(2, "No such file or directory", "5.png")
        return super().image(index, rng)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_vanished_leaves_the_step_before(tmp_path, whole, workers):
    with pytest.raises(OSError, match=r"5\.png") as caught:
        go(tmp_path, stop=6, data=Vanishing(8, image_size=16), workers=workers)
    assert "\n" not in str(caught.value)
    kept = last(tmp_path)["step"] if (tmp_path / "checkpoints").exists() else 0
    assert kept == len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 4
    if kept:
        go(tmp_path, resume=True)
        assert equal_runs(last(tmp_path), whole)


def test_a_loader_process_that_died_leaves_the_last_whole_step(tmp_path, whole):
    def kill_workers():
        for child in multiprocessing.active_children():
            child.kill()
            child.join()

    with pytest.raises(OSError, match=r"loading data failed: DataLoader worker .*exited unexpectedly"):
        go(tmp_path, stop=60, fail_at=(3, kill_workers, True), workers=1)
    assert last(tmp_path)["step"] >= 4
    assert (
        last(tmp_path)["step"] == json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] + 1
    )


def test_an_error_outside_of_a_step_leaves_the_last_whole_one(tmp_path):
    with pytest.raises(ZeroDivisionError):
        go(tmp_path, after=lambda step: 1 / (2 - step))
    assert last(tmp_path)["step"] == 3


def test_what_is_not_finite_is_never_saved(tmp_path, capsys):
    training = Training()

    def poison(step):
        with torch.no_grad():
            training.model[0].weight[0, 0] += float("nan") if step == 1 else 0

    with pytest.raises(NonFiniteLossError, match=r"weight 0\.weight is not finite after step 1"):
        go(tmp_path, save_every=1, training=training, after=poison)
    assert last(tmp_path)["step"] == 1
    assert "smaller learning rates" in capsys.readouterr().err


@pytest.fixture(params=["none", "full", "pipe", "closed"])
def gone(request, monkeypatch):
    """Standard output and error as a process has them without a terminal, on a full disk, and so on."""
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("w", buffering=1) as full, Path(os.devnull).open("w") as closed:
        closed.close()
        pipe = os.fdopen(writer, "w", buffering=1)
        stream = {"none": None, "full": full, "pipe": pipe, "closed": closed}[request.param]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            patch.setattr(sys, "stdout", stream)
            yield
        for file in (full, pipe):  # what stays in their buffers cannot be written
            with contextlib.suppress(OSError):
                file.close()


def test_a_console_that_is_gone_ends_no_run(tmp_path, gone):
    training = Training()
    with Run(Config(out=tmp_path), training, training.model, DATA) as run:
        run.announce(2)
        for step, batch in run.steps(2):
            run.record(training(batch))
            run.say(f"step {step}")
        run.finish({"model": "nowhere"})
    assert last(tmp_path)["step"] == 2
    assert json.loads((tmp_path / "run.json").read_text())["flags"]["width"] == 3


# Whose folder it is.

HOLD = """
import sys
from t2ilayers.training.lock import FolderLock
lock = FolderLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_two_runs_do_not_share_a_folder(tmp_path):
    torn = tmp_path / ".losses.png.0123abcd.tmp"
    torn.touch()
    (tmp_path / "notes.tmp").touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"is in use by another run \(process {other.pid} on"):
            go(tmp_path)
        assert torn.exists()  # the other run's, for all we know
        other.kill()
    go(tmp_path)  # at once after the kill
    assert not torn.exists()
    assert (tmp_path / "notes.tmp").exists()


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--out must be a path in UTF-8"):
        go(tmp_path / os.fsdecode(b"r\xfcn"))


def test_a_new_run_does_not_write_over_another_ones_checkpoints(tmp_path):
    go(tmp_path, stop=1)
    with pytest.raises(ValueError, match="holds another run's checkpoints"):
        go(tmp_path)
    with pytest.raises(FileNotFoundError, match="start without --resume"):
        go(tmp_path / "new", resume=True)


def rewrite(out, change):
    path = latest_checkpoint(out / "checkpoints")
    state = load_checkpoint(path)
    step = state.pop("step")
    change(state)
    save_checkpoint(out / "checkpoints", step, state)


CHANGES = {
    "a flag that a later version added": (lambda s: s["flags"].pop("width"), {}, None),
    "the same, with another value than the default": (
        lambda s: s["flags"].pop("width"), {"width": 4}, "trained with --width 3, this run has 4"
    ),
    "a flag that a later version dropped": (lambda s: s["flags"].update(old=1), {}, None),
    "another flag": (lambda s: None, {"seed": 3}, "trained with --seed 0, this run has 3"),
    "a flag that may change": (lambda s: None, {"rate": 0.3}, None),
    "another vocabulary": (lambda s: s.update(vocabulary=["a"]), {}, "another vocabulary than that of shapes"),
    "other pictures or captions": (lambda s: s.update(data="0"), {}, "other captions or pictures than shapes"),
    "no digest of the data": (lambda s: s.pop("data"), {}, None),
    "no flags": (lambda s: s.pop("flags"), {}, "is no checkpoint of this script"),
    "flags of another kind": (lambda s: s.update(flags=[1]), {}, "is no checkpoint of this script"),
    "no model": (lambda s: s.pop("model"), {}, "is no checkpoint of this run: 'model'"),
    "another model": (
        lambda s: s["model"].update({"0.weight": torch.ones(5)}), {}, "no checkpoint of this run: .*size mismatch"
    ),
    "a model of another kind": (lambda s: s.update(model=3), {}, "is no checkpoint of this run"),
    "an optimizer of another kind": (lambda s: s.update(optimizer={}), {}, "is no checkpoint of this run"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_checkpoint_of_another_run_or_version(tmp_path, kind):
    go(tmp_path, stop=2)
    change, settings, message = CHANGES[kind]
    rewrite(tmp_path, change)
    if message is None:
        go(tmp_path, stop=3, resume=True, **settings)
        assert last(tmp_path)["step"] == 3
    else:
        with pytest.raises(ValueError, match=rf"(?s)step_00000002\.pt .*{message}"):
            go(tmp_path, stop=3, resume=True, **settings)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, whole, capsys):
    go(tmp_path, stop=4, save_every=2)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    content = bytearray(newest.read_bytes())
    content[content.index(last(tmp_path)["model"]["0.weight"].numpy().tobytes())] ^= 4
    newest.write_bytes(content)
    go(tmp_path, stop=5, save_every=2, resume=True)
    said = capsys.readouterr().err
    assert "step_00000004.pt is no readable checkpoint" in said
    assert "the one before it is taken" in said
    go(tmp_path, resume=True)
    assert equal_runs(last(tmp_path), whole)
    assert (tmp_path / "checkpoints" / "step_00000004.damaged").exists()


def test_where_every_checkpoint_is_damaged_the_last_one_is_named(tmp_path):
    go(tmp_path, stop=2)
    latest_checkpoint(tmp_path / "checkpoints").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"step_00000002\.pt is no readable checkpoint"):
        go(tmp_path, resume=True)


def test_a_step_without_its_losses_is_an_error(tmp_path):
    training = Training()
    with Run(Config(out=tmp_path), training, training.model, DATA) as run:
        steps = run.steps(2)
        next(steps)
        with pytest.raises(RuntimeError, match=r"step 0 must be given to record\(\)"):
            next(steps)


def test_a_duration_is_said_in_a_unit_that_fits():
    said = [_duration(seconds) for seconds in (3, 119, 120, 7199, 7200, 172799, 172800, 9e6)]
    assert said == ["3 s", "119 s", "2 min", "120 min", "2 h", "48 h", "2 days", "104 days"]


def test_the_bar_of_a_long_run_fits_80_columns():
    bar = tqdm.format_meter(
        12345, 20000, elapsed=9e4, bar_format=_BAR, postfix="real 0.93 fake 0.91 G -0.12", unit="", ascii=True
    )
    assert "12345/20000" in bar
    assert "G -0.12" in bar
    assert len(bar) <= 80
