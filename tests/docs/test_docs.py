"""What the documentation shows: blocks run, named flags exist, the API is there, figures are the JSON's."""

import functools
import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2ilayers import SSAGAN
from t2ilayers.cli.main import main as cli_main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
IDS = [str(page.relative_to(ROOT / "docs")) for page in PAGES]
sys.path.append(str(ROOT / "docs" / "tools"))
benchmarks, pictures = (importlib.import_module(name) for name in ("benchmarks", "pictures"))


def blocks(language):
    """Pages with their blocks of one language."""
    found = ((page, re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)) for page in PAGES)
    return {page: texts for page, texts in found if texts}


PYTHON, SHELL = blocks("python"), blocks("sh")
EXTRAS = ("transformers",)  # that development does without


def test_blocks_of_no_other_kind_are_shown():
    for page in PAGES:
        languages = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)[::2]
        assert set(languages) <= {"python", "sh", "text"}, page


def test_the_first_picture_of_the_readme_is_what_the_model_of_the_package_draws():
    drawn = np.asarray(pictures.readme(SSAGAN.from_pretrained("shapes32")), dtype=int)
    shown = np.asarray(Image.open(ROOT / "docs/assets/hero.png"), dtype=int)
    assert pictures.HERO in (ROOT / "README.md").read_text()
    assert shown.shape == drawn.shape
    assert abs(shown - drawn).max() <= 3  # of 255: other kernels round otherwise


@pytest.mark.parametrize("page", PYTHON, ids=[page.stem for page in PYTHON])
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    for extra in EXTRAS:
        if any(f"from {extra} import" in block for block in PYTHON[page]):
            pytest.importorskip(extra)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for block in PYTHON[page]:
        exec(compile(block, str(page), "exec"), names)


def commands():
    """What the pages' shell blocks run of this repository, and with which flags."""
    found = {}
    lines = [line for texts in SHELL.values() for text in texts for line in text.replace("\\\n", " ").splitlines()]
    for line in lines:
        if match := re.search(r"(examples/\w+\.py|-m t2ilayers\.[\w.]*|\bt2ilayers \w+)(.*?)(?:  #|$)", line):
            found.setdefault(match[1], set()).update(re.findall(r"--[a-z][\w-]*", match[2]))
    return found


@pytest.mark.parametrize(("program", "flags"), commands().items(), ids=list(commands()))
def test_a_program_has_the_flags_that_pages_give_it(program, flags, monkeypatch, capsys):
    name = program.split()[-1]
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    if program.startswith("t2ilayers "):
        main = functools.partial(cli_main, [name, "--help"])
    elif program.startswith("-m"):
        main = importlib.import_module(name).main
    else:
        main = functools.partial(runpy.run_path, str(ROOT / name), run_name="__main__")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert flags <= set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))


def test_targets_of_make_that_pages_name_exist():
    texts = [page.read_text() for page in (*PAGES, ROOT / "CONTRIBUTING.md")]
    named = {name for text in texts for name in re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE)}
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert "docs" in named
    assert named <= targets


@pytest.mark.parametrize(
    "module", ["ops", "layers", "encoders", "models", "losses", "data", "metrics", "training", "interop.official"]
)
def test_the_api_pages_list_every_public_name_once(module):
    page = (ROOT / "docs" / "api" / f"{module.split('.')[0]}.md").read_text()
    shown = re.findall(rf"^::: t2ilayers\.{re.escape(module)}\.((?:\w+\.)?\w+)$", page, re.MULTILINE)
    public = set(importlib.import_module(f"t2ilayers.{module}").__all__)
    assert len(shown) == len(set(shown))
    assert public <= {name.rpartition(".")[2] for name in shown}


def peer(median, of_floor):
    return {
        "median_ms": median, "quartile1_ms": median * 0.9, "quartile3_ms": median * 1.1, "peak_maps": 2.0,
        "of_floor": of_floor,
    }  # fmt: skip


def write_results(folder, eager):
    row = {
        "shape": [8, 64, 128, 128], "upsample": 1, "dtype": "float32", "layout": "contiguous", "pass": "both",
        "floor_ms": 2.0, "peers": {"native": peer(4.0, 0.5), "eager": peer(eager, 2 / eager)},
        "copy_gb_per_s": 10.0,
    }  # fmt: skip
    record = {"environment": {"cpu": "a <processor>", "threads": 2}, "rows": [row]}
    (folder / "op_cpu.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("eager", "said"), [(10.0, "2.50×"), (3.0, "**0.75×, slower**")])
def test_the_benchmarks_page_says_by_how_much_a_peer_wins_or_loses(tmp_path, eager, said):
    write_results(tmp_path, eager)
    text = benchmarks.page(tmp_path)
    assert f"| {said} |" in text
    assert ("eager in 1" in text) == (eager < 4)


def test_the_plots_place_what_was_measured(tmp_path):
    write_results(tmp_path, 10.0)
    text = benchmarks.page(tmp_path)
    widths = dict(re.findall(r'<rect class="(p\d)" x="108" y="\d+" width="([\d.]+)"', text))
    assert float(widths["p0"]) / float(widths["p1"]) == pytest.approx(10 / 4, rel=0.01)
    heights = dict(re.findall(r'<circle class="(p\d)".*?cy="([\d.]+)"', text))
    assert float(heights["p0"]) < float(heights["p1"])  # faster is higher


def test_parts_of_a_model_are_timed_against_its_peer(tmp_path):
    times = {"median_ms": 20.0, "quartile1_ms": 19.0, "quartile3_ms": 21.0}
    part = {"t2ilayers": times, "plain": times | {"median_ms": 50.0}, "shares_ms": {"plain": {"norm": 1.0}}}
    record = {"environment": {}, "rows": [{"image_size": 64, "iteration": part}]}
    (tmp_path / "model_cpu.json").write_text(json.dumps(record))
    assert "| 64 | iteration | 20.0 | 19.0–21.0 | 2.50× |" in benchmarks.page(tmp_path)


def test_growth_is_drawn_and_throughput_is_listed(tmp_path):
    def row(size, ours, plain):
        peers = {
            name: {
                "median_ms": ms,
                "quartile1_ms": ms,
                "quartile3_ms": ms,
                "peak_mib": ms,
                "images_per_s": 4e3 / ms,
            }
            for name, ms in (("t2ilayers", ours), ("plain", plain))
        }
        return {"image_size": size, "batch": 4, "sampling": peers, "generator": peers}

    rows = [row(32, 10.0, 20.0), row(64, 40.0, 80.0)]
    record = {"environment": {}, "rows": rows[:1], "throughput": rows, "growth": {"image_size": rows}}
    (tmp_path / "model_cpu.json").write_text(json.dumps(record))
    text = benchmarks.page(tmp_path)
    assert "| 4 | 400.0 | 200.0 |" in text
    assert "| 64 | generator | 40.0 | 40.0–40.0 | 2.00× |" in text
    assert "In all rows: batch 4." in text
    drawing = text[text.index("Time and memory with size") : text.index("Time and memory of the generator's")]
    points = re.findall(r'<circle class="(p\d)" cx="([\d.]+)" cy="([\d.]+)"', drawing)
    assert len(points) == 8  # two sizes of two peers, in time and in memory
    (_, x32, y32), (_, x64, y64) = points[:2]
    assert float(x32) < float(x64)  # larger is to the right
    assert float(y32) > float(y64)  # slower is up


def test_an_evaluation_is_listed_number_by_number(tmp_path):
    record = {
        "command": "evaluate.py",
        "data": "shapes",
        "seed": 7,
        "r_precision": {"generated": {"mean": 0.4321}},
    }
    (tmp_path / "one.json").write_text(json.dumps(record))
    text = benchmarks.page(tmp_path)
    assert "| r precision generated mean | 0.432 |" in text
    assert "| seed" not in text


def test_compared_generators_stand_side_by_side(tmp_path):
    variants = {
        name: {
            "program": "t2ilayers",
            "flags": f"--generator {name}",
            "steps": steps,
            "seeds": ["0", "1"],
            "values": {"shape": shape},
        }
        for name, steps, shape in (("ssa", 900, [0.8, 0.9]), ("df", 1000, [0.75, 0.65]))
    }
    record = {"environment": {}, "data": "shapes", "minutes": 5, "real": {"shape": 0.999}, "variants": variants}
    (tmp_path / "comparison_shapes.json").write_text(json.dumps(record))
    text = benchmarks.page(tmp_path)
    assert "## Generators and recipes compared, shapes" in text
    assert "| steps | 900 | 1000 |  |" in text
    assert "| shape | 0.850 (0.800–0.900) | 0.700 (0.650–0.750) | 0.999 |" in text


def test_the_page_to_try_tells_what_was_measured_of_its_model():
    page = (ROOT / "docs" / "try.md").read_text()
    measured = json.loads((ROOT / "benchmarks" / "results" / "shapes32.json").read_text())["attributes"]
    told = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert {name for name, *_ in told} == set(measured)
    for name, generated, chance in told:
        assert float(generated) == pytest.approx(measured[name]["generated"], abs=0.0051)  # of two decimals
        assert float(chance) == pytest.approx(measured[name]["chance"], abs=0.0051)  # of two decimals


def test_the_card_of_the_packages_model_runs_and_tells_what_was_measured():
    card = (ROOT / "src/t2ilayers/pretrained/shapes32/README.md").read_text()
    assert re.findall(r"^```(.*)$", card, re.MULTILINE) == ["python", "", "sh", ""]
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert '"shapes32"' in code
    exec(compile(code, "README.md", "exec"), {})
    measured = json.loads((ROOT / "benchmarks/results/shapes32.json").read_text())["attributes"]
    told = dict(re.findall(r"\b(\w+) (\d\.\d{3})\b", card))
    for name, result in measured.items():
        assert float(told[name]) == pytest.approx(result["generated"], abs=0.00051)  # of three decimals
