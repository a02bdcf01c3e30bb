"""Runs subcommands of t2ilayers: in this process, or, where one is to be killed, in one of its own."""

import contextlib
import io
import subprocess
import sys

import pytest

from t2ilayers.cli.main import main

SMALL = {
    "train": "--ngf 2 --ndf 2 --mask-channels 4 --sample-every 4",
    "pretrain": "--measure-every 100 --data shapes",
}


def run(*arguments):
    """What the command would leave of a process: its exit code, and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        given = [str(argument) for argument in arguments]
        patch.setattr(sys, "argv", ["t2ilayers", *given])  # which a run writes down
        try:
            code = main(given)
        except SystemExit as end:  # of the parser of flags
            code = end.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def refused(result, *parts):
    """Exit code 2 and one line on stderr that says all the parts."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(part in result.stderr for part in parts), result.stderr


def flags(out, *more, script="train"):
    """Of a run of six steps with tiny models, which ``more`` override."""
    small = f"--image-size 32 --batch-size 4 --steps 6 --save-every 2 --log-every 1 {SMALL[script]}"
    return ["--out", str(out), *small.split(), *more]


def train(out, *more):
    return run("train", *flags(out, *more))


def command(*arguments):
    return [sys.executable, "-m", "t2ilayers", *map(str, arguments)]
