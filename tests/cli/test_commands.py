"""What every subcommand owes a user: help at once that says the limits, and mistakes in one line.

What each does with its own flags is tested beside what it makes: test_train, test_pretrain,
test_generate_and_evaluate, test_app.
"""

import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.cli import main
from t2ilayers.data import CaptionedShapes

from scripts import refused, run

ROOT = Path(__file__).parents[2]
NOT_TYRO = ("build", "doctor", "validate")  # nor do they need its extra
SCRIPTS = [name for name in main.COMMANDS if name not in NOT_TYRO]


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


def test_help_of_all_is_there_before_torch_and_fits_80_columns():
    code = """
import os, sys
os.environ.pop("GOMP_SPINCOUNT", None)
from t2ilayers.cli.main import main
assert main(["--help"]) == 0
assert not {"torch", "numpy", "tyro"} & set(sys.modules)
assert "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert re.findall(r"^  (\w+) ", result.stdout, re.MULTILINE) == list(main.COMMANDS)


def test_every_file_of_a_command_is_named():
    files = {path.stem for path in Path(main.__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    assert files - {"main"} == set(main.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "t2ilayers 0."),
        ([], 2, "usage: t2ilayers"),
        (["genrate"], 2, "'genrate' is no command; did you mean 'generate'?"),
        (["zzz"], 2, "'zzz' is no command; commands are generate,"),
        (["validate", "shapes"], 0, "drawn shapes need no check"),
        (["doctor", "--help"], 0, "usage: t2ilayers doctor"),
    ],
)
def test_the_command_itself(arguments, code, said):
    result = run(*arguments)
    assert result.returncode == code
    assert said in " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_missing_extra_is_one_sentence_that_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda module: None if module == "tyro" else object())
    result = run(name)
    assert result.returncode == 2
    extra = main.COMMANDS[name].extra
    assert f"t2ilayers {name}: needs tyro, which the extra '{extra}' brings: pip install 't2ilayers[{extra}]'" in (
        " ".join(result.stderr.split())
    )


@pytest.mark.parametrize("extra", main.EXTRAS)
def test_extras_are_those_of_the_package(extra):
    (listed,) = re.findall(rf"^{extra} = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(re.findall(r'"([\w-]+)>=', listed)) == set(main.EXTRAS[extra].values())


@pytest.mark.parametrize("script", ["train_ssagan", "pretrain_damsm"])
def test_training_scripts_say_what_the_command_says(script, monkeypatch, capsys):
    path = str(ROOT / "examples" / f"{script}.py")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == run(script.partition("_")[0], "--help").stdout


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
    assert numbers or script == "export"
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
        ("pretrain --data none --out out", "an existing folder, got 'none'"),
        ("pretrain --data empty --out out", "empty"),
        (
            "train --data empty --steps 1 --out out",
            "empty has 1 problem: no captions.jsonl, metadata.jsonl or",
        ),
        ("train --encoders empty --steps 1 --out out", "empty holds no config.json"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(place, monkeypatch, command, message):
    monkeypatch.chdir(place)
    result = run(*command.split())
    assert result.returncode == 2
    said = result.stderr
    assert message in said
    # After a bar of progress, one line, or one and the list of a data set's problems.
    assert re.search(rf"(?m)^t2ilayers {command.split()[0]}: .+\n(  .+\n)*\Z", said), said
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


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "t2ilayers", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")
