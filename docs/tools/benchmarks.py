"""Write the tables and plots of the benchmarks page from the JSON files of ``benchmarks/results``.

    python docs/tools/benchmarks.py benchmarks/results build/docs

Nothing here knows a figure: whoever measures anew and builds anew has a new page. Two kinds of files are told
apart by what they hold: ``rows`` of peers timed in turn (``benchmarks/op.py``, ``benchmarks/model.py``), and
evaluations and training runs, whose numbers are listed as they are.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plots import Timing, bars, growth, label, roofline

HEADER = {"command", "model", "data", "split", "samples", "seed", "machine", "versions"}  # of an evaluation
MEMORY = {"peak_maps": "maps", "peak_mib": "MiB"}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# --- Peers timed in turn ---------------------------------------------------------------------------------------


def timings(row: dict[str, Any]) -> Iterator[Timing]:
    """What was timed in a row: its ``peers``, or each of the parts that hold peers."""
    if "peers" in row:
        measured = {"peers", "floor_ms", "copy_gb_per_s"}
        what = {key: value for key, value in row.items() if key not in measured}
        yield Timing(what, row["peers"], row["floor_ms"], row["copy_gb_per_s"])
        return
    what = {key: value for key, value in row.items() if not isinstance(value, dict)}
    for part, value in row.items():
        if isinstance(value, dict):
            yield Timing(
                what | {"part": part}, {name: peer for name, peer in value.items() if "median_ms" in peer}
            )


def ratio(peer: float, ours: float) -> str:
    """How many times we are faster; where we are not, that is said in bold."""
    times = peer / ours
    return f"{times:.2f}×" if times >= 1 else f"**{times:.2f}×, slower**"


def timings_table(rows: list[Timing]) -> str:
    first = rows[0]
    others = list(dict.fromkeys(peer for row in rows for peer in row.others))
    memory = next((key for key in MEMORY if key in first.peers[first.ours]), None)
    header = [*first.what, f"{first.ours} ms", "quartiles", *(f"over {peer}" for peer in others)]
    header += ["of floor"] * bool(first.floor) + [f"memory, {MEMORY[memory]}" if memory else ""] * bool(memory)
    lines = []
    for row in rows:
        ours = row.peers[row.ours]
        line = [label(value) for value in row.what.values()]
        line += [f"{ours['median_ms']:.3f}", f"{ours['quartile1_ms']:.3f}–{ours['quartile3_ms']:.3f}"]
        line += [ratio(row.peers[p]["median_ms"], ours["median_ms"]) if p in row.peers else "" for p in others]
        if first.floor:
            line.append(f"{ours['of_floor']:.0%}")
        if memory:
            line.append(" / ".join(f"{peer[memory]:.1f}" for peer in row.peers.values() if memory in peer))
        lines.append(line)
    return table(header, lines)


def losses(rows: list[Timing]) -> str:
    """One sentence on where a peer is faster."""
    lost = Counter(peer for row in rows for peer in row.others if row.median(peer) < row.median(row.ours))
    if not lost:
        return f"In none of the {len(rows)} rows is a peer faster than {rows[0].ours}.\n"
    each = ", ".join(f"{peer} in {count}" for peer, count in lost.items())
    return f"Of {len(rows)} rows a peer is faster than {rows[0].ours} here: {each}. They are marked in bold.\n"


def main_group(rows: list[Timing]) -> list[Timing]:
    """The rows of forward and backward in the dtype and layout that was measured most, small maps first."""
    both = [row for row in rows if row.what["pass"] == "both"]
    kinds = Counter((row.what["dtype"], row.what["layout"]) for row in both)
    kind = kinds.most_common(1)[0][0]
    shown = [row for row in both if (row.what["dtype"], row.what["layout"]) == kind]
    return sorted(shown, key=lambda row: (row.what["upsample"], row.what["shape"][-1], -row.what["shape"][1]))


def figure(drawing: str, caption: str) -> str:
    return f"<figure>\n{drawing}\n<figcaption>{caption}</figcaption>\n</figure>\n"


def timed_section(name: str, record: dict[str, Any]) -> Iterator[str]:
    rows = [timing for row in record["rows"] for timing in timings(row)]
    if "as_users_run" in record:
        what = dict.fromkeys(rows[0].what, "") | {"part": "defaults, an iteration of each with its own"}
        own, plain, *other_precisions = record["as_users_run"].items()
        rows.append(Timing(what, dict((own, plain))))
        for name, times in other_precisions:  # no peer of ours, but ours told otherwise
            part = f"in {name.split()[-1]}, the same with ours told {name.removeprefix(own[0]).strip()}"
            rows.append(Timing(what | {"part": part}, dict(((own[0], times), plain))))
    yield f"## {name}\n"
    yield "".join(f"- {key}: `{value}`\n" for key, value in record["environment"].items())
    yield losses(rows)
    if rows[0].floor:
        shown = main_group(rows)
        kind = f"{shown[0].what['dtype']}, {shown[0].what['layout']}, forward and backward"
        yield figure(
            bars(shown), f"Speed as a multiple of {shown[0].base}; {kind}. Longer is better; ↑ is with upsampling."
        )
        yield figure(
            roofline(shown),
            f"Unavoidable bytes over time; {kind}. Above the line data stayed in cache between passes.",
        )
    else:
        yield figure(bars(rows), f"Speed as a multiple of {rows[0].base}. Longer is better.")
    yield timings_table(rows)
    if "throughput" in record:
        yield "Drawing one picture at a time, and many:\n"
        yield throughput_table(record["throughput"])
    if "growth" in record:
        series = {varied: [t for row in rows for t in timings(row)] for varied, rows in record["growth"].items()}
        yield figure(
            growth(series),
            "Time and memory of the generator's forward and backward pass with size, batch and width; the others "
            "fixed as in the table.",
        )
        yield timings_table([timing for points in series.values() for timing in points])


def throughput_table(rows: list[dict[str, Any]]) -> str:
    peers = list(rows[0]["sampling"])
    return table(
        ["batch", *(f"{peer}, pictures a second" for peer in peers)],
        [[str(row["batch"]), *(f"{row['sampling'][peer]['images_per_s']:.1f}" for peer in peers)] for row in rows],
    )


# --- Evaluations and training runs -----------------------------------------------------------------------------


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every number below ``value`` with the words that lead to it."""
    if isinstance(value, dict):
        side = f" {value['side']} px" if "side" in value else ""
        for key, inner in value.items():
            if key != "side":
                yield from numbers(inner, f"{path}{side} {key}".strip().replace("_", " "))
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, f"{value:.3f}" if isinstance(value, float) else str(value)


def evaluations_section(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for name, record in records.items():
        key = tuple(str(record.get(field, "")) for field in ("data", "split", "samples"))
        groups.setdefault(key, {})[name] = record
    for (data, split, samples), group in groups.items():
        yield f"### `{data}`, split {split}, {samples} pictures\n"
        columns = {
            name: dict(numbers({key: value for key, value in record.items() if key not in HEADER}))
            for name, record in group.items()
        }
        measures = list(dict.fromkeys(measure for column in columns.values() for measure in column))
        yield table(
            ["measure", *columns],
            [[measure, *(column.get(measure, "") for column in columns.values())] for measure in measures],
        )
        yield from commands(group)


def runs_section(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield table(
        ["run", "seconds", "device", "cores", "torch"],
        [
            [
                name,
                *(str(record.get(key, "")) for key in ("seconds", "device", "cores")),
                record["versions"]["torch"],
            ]
            for name, record in records.items()
        ],
    )
    yield from commands(records)


def commands(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "\n".join(f"- {name}: `{record['command']}`" for name, record in records.items()) + "\n"


def page(results: Path) -> str:
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    timed = {name: record for name, record in records.items() if "rows" in record}
    runs = {name: record for name, record in records.items() if "flags" in record}
    evaluations = {name: record for name, record in records.items() if name not in timed and name not in runs}
    parts: list[str] = []
    for name, record in timed.items():
        parts += timed_section(name, record)
    if not timed:
        parts.append("## Speed\n\nNo timings have been recorded: `python benchmarks/op.py` writes them.\n")
    if evaluations:
        parts += ["## What trained models reach\n", *evaluations_section(evaluations)]
    if runs:
        parts += ["## Training runs\n", *runs_section(runs)]
    return "\n".join(parts)


def main(results: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
