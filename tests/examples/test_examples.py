"""What every script of examples/ owes a user: help that says the limits, and mistakes in one line.

What each does with its own flags is tested beside what it makes: test_training, test_pretrain_damsm,
test_generate_and_evaluate, test_app.
"""

import re
import socket

import pytest
from PIL import Image

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import CaptionedShapes

from scripts import EXAMPLES, refused, run

SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())


@pytest.fixture
def place(tmp_path):
    """A folder with a good model, a damaged one, an empty folder, and pictures of what it has no word for."""
    vocabulary = CaptionedShapes(1, 16).vocabulary
    config = SSAGANConfig(
        32,
        ngf=2,
        ndf=2,
        cond_dim=16,
        embed_dim=8,
        mask_channels=4,
        vocab_size=len(vocabulary),
        image_encoder="conv",
    )
    for name in ("good", "damaged"):
        SSAGAN(config, vocabulary).save_pretrained(tmp_path / name)
    (tmp_path / "damaged" / "config.json").write_text('{"image_size": 32')
    (tmp_path / "empty").mkdir()
    (tmp_path / "zebras").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / "zebras" / f"{number}.png")
        (tmp_path / "zebras" / f"{number}.txt").write_text("a zebra\n")
    (tmp_path / "config.py").write_text("steps = 3\n")
    return tmp_path


def test_the_scripts_are_those_known_here():
    assert SCRIPTS == ["app", "evaluate", "generate", "pretrain_damsm", "train_ssagan"]


def options(script):
    """The help of each option on one line, by its flag."""
    result = run(script, "--help")
    assert result.returncode == 0
    text = re.split(r"^\W*options\W*$", result.stdout, flags=re.MULTILINE)[1]
    text = re.sub(r"\s+", " ", re.sub(r"[╭╮╰╯│─]|-{3,}", " ", text))
    return {part.split()[0]: part for part in re.split(r"(?<!,) (?=--[a-z-]+(?: [A-Z{\[]|, --no))", text)[1:]}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_defaults(script):
    helps = options(script)
    assert len(helps) >= 2
    assert [flag for flag, text in helps.items() if not re.search(r"\((default: .*|required)\)", text)] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_plain_text_of_80_columns(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run(script, "--help").stdout
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert not re.search(r"``|:\w+:`|\(default: \)|\( \)", text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_the_range_of_every_number(script):
    helps = options(script)
    numbers = {flag: text for flag, text in helps.items() if re.match(r"\S+ (\{None\}\|)?(INT|FLOAT)", text)}
    assert numbers
    limits = re.compile(r"[Aa]t least|above|\d to (below )?\d")
    assert [flag for flag, text in numbers.items() if not limits.search(text)] == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("app none", "none holds no config.json"),
        ("app empty", "empty holds no config.json"),
        ("app damaged", "damaged is not a complete model"),
        ("app good --port 65536", "--port must be in [0, 65535], got 65536"),
        ("app good --host 192.0.2.1", "cannot listen at 192.0.2.1:8000"),  # no machine has it
        ("evaluate empty --data shapes", "empty holds no config.json"),
        ("evaluate damaged --data shapes", "damaged is not a complete model"),
        ("evaluate good --data zebras --captions-split train", "got 'zebra'"),
        ("generate empty circle", "empty holds no config.json"),
        ("generate good circle --truncation 0", "truncation must be > 0, got 0"),
        ("generate good circle --seed 99999999999999999999", "--seed must be"),
        ("generate good circle --out config.py", "config.py"),
        ("pretrain_damsm --data none --out out", "an existing folder, got 'none'"),
        ("pretrain_damsm --data empty --out out", "empty"),
        (
            "train_ssagan --data empty --steps 1 --out out",
            "empty has 1 problem: no captions.jsonl, metadata.jsonl or",
        ),
        ("train_ssagan --encoders empty --steps 1 --out out", "empty holds no config.json"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(place, monkeypatch, command, message):
    monkeypatch.chdir(place)
    result = run(*command.split())
    assert result.returncode == 2
    said = result.stderr
    assert message in said
    # After a bar of progress, one line, or one and the list of a data set's problems.
    assert re.search(rf"(?m)^{command.split()[0]}(\.py)?: .+\n(  .+\n)*\Z", said), said
    assert "Traceback" not in said


def test_a_port_in_use_is_named(place):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("app", place / "good", "--port", port)
    refused(result, f"cannot listen at 127.0.0.1:{port}: Address already in use; try another --port")


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_flag_is_refused(script):
    result = run(script, "--no-such-flag", "1")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
