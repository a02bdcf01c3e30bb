"""A griffe extension: the little reStructuredText of this library's docstrings, turned into Markdown.

Formulas, references to other objects, literal blocks and simple tables; and ``Example:`` as the section that
griffe's Google style calls ``Examples:``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Any

from griffe import Extension, NameResolutionError, Object

_INDENTED = r"(?:\n[ \t]*)*(?:\n(?P=indent)[ ]{4,}\S.*(?:\n(?:(?P=indent)[ ]{4,}.*|[ \t]*(?=\n)))*)"
_FORMULA = re.compile(rf"^(?P<indent> *)\.\. math::[ ]*(?P<first>.*)(?P<rest>{_INDENTED})?", re.MULTILINE)
_LITERAL = re.compile(rf"^(?P<indent> *)(?P<lead>.*?\S) ?::(?P<code>{_INDENTED})", re.MULTILINE)
_TABLE = re.compile(
    r"^(?P<indent> *)(?P<rule>=+(?: +=+)+)\n(?P<rows>(?:.*\S.*\n)+?)(?P=indent)=[= ]+$", re.MULTILINE
)
_SEVERAL = re.compile(r"^(?P<indent>    )(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n {5,}.*)*)$", re.MULTILINE)
_SHAPES = re.compile(rf"^(?P<indent> *)Shapes:(?P<text>{_INDENTED})", re.MULTILINE)
_ROLE = re.compile(r":(?P<role>math|class|func|meth|mod|data):`(?P<short>~?)(?P<target>[^`]*)`(?:\\(?=s))?")


def to_markdown(text: str, resolve: Callable[[str], str | None]) -> str:
    """``text`` as Markdown; ``resolve`` gives the full path of a name, or None for nothing to link to."""

    def role(match: re.Match[str]) -> str:
        target = match["target"]
        if match["role"] == "math":
            return rf"\({target}\)"
        shown = target.rpartition(".")[2] if match["short"] else target
        path = None if match["role"] == "mod" else resolve(target)  # files have no entry of their own
        return f"[`{shown}`][{path}]" if path else f"`{shown}`"

    text = _FORMULA.sub(_formula, text)
    text = _LITERAL.sub(_literal, text)
    text = _TABLE.sub(_table, text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = _SHAPES.sub(_shapes, text)
    text = _SEVERAL.sub(_one_each, text)
    return _ROLE.sub(role, text)


def _formula(match: re.Match[str]) -> str:
    indent = match["indent"]
    formula = textwrap.dedent(match["rest"] or "").strip()
    formula = " ".join([match["first"].strip(), *(line.strip() for line in formula.splitlines())]).strip()
    if "\\\\" in formula or "&" in formula:
        formula = rf"\begin{{aligned}} {formula} \end{{aligned}}"
    return f"\n{indent}\\[{formula}\\]\n"


def _shapes(match: re.Match[str]) -> str:
    """A section that Google's style lacks, so a paragraph under a title."""
    indent = match["indent"]
    return f"{indent}**Shapes:**\n\n{textwrap.indent(textwrap.dedent(match['text'].strip(chr(10))), indent)}\n"


def _one_each(match: re.Match[str]) -> str:
    return "\n".join(f"{match['indent']}{name}: {match['text']}" for name in match["names"].split(", "))


def _literal(match: re.Match[str]) -> str:
    indent = match["indent"]
    code = textwrap.indent(textwrap.dedent(match["code"].strip("\n")), indent)
    return f"{indent}{match['lead']}:\n\n{indent}```python\n{code}\n{indent}```\n"


def _table(match: re.Match[str]) -> str:
    indent = match["indent"]
    starts = [column.start() for column in re.finditer("=+", match["rule"])]
    rows = [line.removeprefix(indent) for line in match["rows"].splitlines()]
    cells = [
        [row[a:b].strip().replace("``", "`") for a, b in zip(starts, [*starts[1:], None], strict=True)]
        for row in rows
    ]
    lines = [
        "| " * len(starts) + "|",
        "|---" * len(starts) + "|",
        *("| " + " | ".join(row) + " |" for row in cells),
    ]
    return "\n".join(indent + line for line in lines)


class Readable(Extension):
    """Rewrites each docstring once the package is loaded, when names can be resolved."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is None:
            return

        def resolve(name: str) -> str | None:
            try:
                path = name if name.startswith("t2ilayers.") else obj.resolve(name)
            except NameResolutionError:
                return None
            return path if path.startswith("t2ilayers.") else None

        obj.docstring.value = to_markdown(obj.docstring.value, resolve)
