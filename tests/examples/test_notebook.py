"""The notebook runs from top to bottom, and its last values are there to see."""

import ast
import json
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def show(value):
    """What a notebook would take to show it."""
    return next(getattr(value, name)() for name in ("_repr_png_", "_repr_html_") if hasattr(value, name))


def run(source, names):
    """The value of the last expression, None if a cell ends in a statement."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    values = [run("".join(cell["source"]), names) for cell in cells() if cell["cell_type"] == "code"]
    shown = [show(value) for value in values if value is not None]
    assert len(shown) >= 6
    assert all(shown)
    assert names["losses"][-1] < names["losses"][0] / 5


def test_it_is_committed_without_what_a_run_left():
    for cell in cells():
        assert (cell.get("outputs", []), cell.get("execution_count")) == ([], None)
