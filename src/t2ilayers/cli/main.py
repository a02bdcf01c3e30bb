"""``t2ilayers COMMAND ...``: finds the command, and says what it would need that is not installed."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from .. import __version__


class Command(NamedTuple):
    """A subcommand: what it does, and the extra of the package that it needs."""

    does: str
    extra: str | None = None


COMMANDS = {
    "generate": Command("Draw pictures from captions", "eval"),
    "app": Command("Play with a model in the browser: captions, seed, masks to paint", "eval"),
    "build": Command("Make captioned pictures of a package that everybody can install", "data"),
    "validate": Command("Check captioned pictures before a training"),
    "pretrain": Command("Train text and image encoder on captioned pictures (DAMSM)", "train"),
    "train": Command("Train SSA-GAN on captioned pictures", "train"),
    "evaluate": Command("Measure what a model's pictures and masks show", "eval"),
    "export": Command("Write a model as ONNX files", "onnx"),
    "doctor": Command("Show which kernels are used here, and what they would need"),
}
# What a command imports of its extra: asked for before it starts, since a run would miss some of it after hours.
EXTRAS = {
    "data": {"PIL": "pillow", "resvg_py": "resvg_py"},
    "eval": {"PIL": "pillow", "tqdm": "tqdm", "tyro": "tyro"},
    "onnx": {"onnx": "onnx", "onnxscript": "onnxscript", "tyro": "tyro"},
    "train": {
        "PIL": "pillow", "matplotlib": "matplotlib", "tensorboard": "tensorboard", "tqdm": "tqdm", "tyro": "tyro",
    },
}  # fmt: skip


def usage() -> str:
    """What ``t2ilayers --help`` says."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: t2ilayers COMMAND ...",
        "",
        "Text-to-image GANs: draw with a model, train one on your pictures, measure it.",
        "",
        *(f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items()),
        "",
        "t2ilayers COMMAND --help says more; t2ilayers --version says the version.",
    ]
    return "\n".join(lines)


def missing(extra: str | None) -> str | None:
    """The sentence that says what of an extra is not installed; None where all of it is."""
    wanted = {} if extra is None else EXTRAS[extra]
    lacking = [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]
    if not lacking:
        return None
    return f"needs {', '.join(lacking)}, which the extra {extra!r} brings: pip install 't2ilayers[{extra}]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Example:
        >>> main(["--version"])
        t2ilayers 0.1.0
        0
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        print(f"t2ilayers {__version__}")
        return 0
    name, rest = given[0], given[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
        return _fail(f"t2ilayers: {textwrap.shorten(repr(name), 60)} is no command; {hint}")
    if sentence := missing(COMMANDS[name].extra):
        return _fail(f"t2ilayers {name}: {sentence}")
    command = importlib.import_module(f".{name}", __package__)
    try:
        status = int(command.main(rest))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes once more at its end
        return 141  # as of a process that SIGPIPE ends
    return status


def _fail(sentence: str) -> int:
    print(textwrap.fill(sentence, shutil.get_terminal_size().columns, subsequent_indent="  "), file=sys.stderr)
    return 2
