"""What the README shows runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["y"].shape == (4, 64, 32, 32)
    assert Path("sheet.png").exists()
    assert names["images"].shape == (2, 3, 64, 64)


def test_every_file_it_names_is_there():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\]\(([\w./-]+)\)|`((?:examples|benchmarks|docs)/[\w./-]+)`", text))
    paths = {a or b for a, b in named if not a.startswith("../../actions/")}  # pages of the repository's host
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]
