"""Write the tables and plots of the benchmarks page from the JSON files of ``benchmarks/results``.

    python docs/tools/benchmarks.py benchmarks/results build/docs

Nothing here knows a figure: whoever measures anew and builds anew has a new page. Two kinds of files are told
apart by what they hold: ``rows`` of peers timed in turn (``benchmarks/op.py``, ``benchmarks/model.py``), and
evaluations and training runs, whose numbers are listed as they are.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plots import Timing, bars, growth, label, roofline

HEADER = {"command", "model", "data", "split", "samples", "seed", "machine", "versions"}  # of an evaluation
MEMORY = {"peak_maps": "maps", "peak_mib": "MiB"}
NAMES = {"shape": "y", "image_size": "px", "ngf": "width"}


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


def timings_table(rows: list[Timing], *, quartiles: bool = True) -> str:
    """One line per row; what is the same in all of them is left out, see :func:`constants`."""
    first = rows[0]
    varied = [key for key in first.what if key not in constants(rows)]
    others = list(dict.fromkeys(peer for row in rows for peer in row.others))
    memory = next((key for key in MEMORY if key in first.peers[first.ours]), None) if quartiles else None
    header = [*(NAMES.get(key, key.replace("_", " ")) for key in varied), f"{first.ours}, ms"]
    header += ["quartiles, ms"] * quartiles + [f"against {peer}" for peer in others]
    header += ["of the floor"] * bool(first.floor) + [f"memory, {MEMORY[memory]}" if memory else ""] * bool(memory)
    lines = []
    for row in rows:
        ours = row.peers[row.ours]
        line = [label(row.what.get(key, "")) for key in varied] or [first.ours]
        line.append(significant(ours["median_ms"]))
        if quartiles:
            line.append(f"{significant(ours['quartile1_ms'])}–{significant(ours['quartile3_ms'])}")
        line += [ratio(row.peers[p]["median_ms"], ours["median_ms"]) if p in row.peers else "" for p in others]
        if first.floor:
            line.append(f"{ours['of_floor']:.0%}")
        if memory:
            line.append(" / ".join(f"{peer[memory]:.1f}" for peer in row.peers.values() if memory in peer))
        lines.append(line)
    return table(header if varied else ["", *header], lines)


def constants(rows: list[Timing]) -> dict[str, Any]:
    """What is the same in all rows of a table with several."""
    what = rows[0].what if len(rows) > 1 else {}
    return {key: value for key, value in what.items() if all(row.what.get(key) in (value, "") for row in rows)}


def significant(milliseconds: float) -> str:
    """Three figures, which is what medians of repeated runs agree in at the best."""
    return f"{milliseconds:.{max(0, 2 - math.floor(math.log10(milliseconds)))}f}"


def folded(summary: str, content: str) -> str:
    return f'<details markdown="1">\n<summary>{summary}</summary>\n\n{content}\n</details>\n'


def losses(rows: list[Timing]) -> str:
    """One sentence on where a peer is faster."""
    lost = Counter(peer for row in rows for peer in row.others if row.median(peer) < row.median(row.ours))
    if not lost:
        return f"No peer is faster than {rows[0].ours} in any of the {len(rows)} rows.\n"
    each = ", ".join(f"{peer} in {count}" for peer, count in lost.items())
    return f"A peer is faster than {rows[0].ours} in some of the {len(rows)} rows ({each}). They are in bold.\n"


def main_group(rows: list[Timing]) -> list[Timing]:
    """The rows of forward and backward in the dtype and layout that was measured most, small maps first."""
    both = [row for row in rows if row.what["pass"] == "both"]
    kinds = Counter((row.what["dtype"], row.what["layout"]) for row in both)
    kind = kinds.most_common(1)[0][0]
    shown = [row for row in both if (row.what["dtype"], row.what["layout"]) == kind]
    return sorted(
        shown,
        key=lambda row: (
            row.what.get("form", "masked") != "masked",  # then what other families have
            row.what["upsample"],
            row.what["shape"][-1],
            -row.what["shape"][1],
        ),
    )


def figure(drawing: str, caption: str) -> str:
    return f"<figure>\n{drawing}\n<figcaption>{caption}</figcaption>\n</figure>\n"


def timed_section(name: str, record: dict[str, Any]) -> Iterator[str]:
    rows = [timing for row in record["rows"] for timing in timings(row)]
    if "as_users_run" in record:
        what = dict.fromkeys(rows[0].what, "") | {"part": "defaults, an iteration with each one's own"}
        own, plain, *other_precisions = record["as_users_run"].items()
        rows.append(Timing(what, dict((own, plain))))
        for told, times in other_precisions:  # no peer of ours, but ours told otherwise
            part = f"in {told.split()[-1]}, an iteration of ours told `{told.removeprefix(own[0]).strip()}`"
            rows.append(Timing(what | {"part": part}, dict(((own[0], times), plain))))
    yield f"## {title(name)}\n"
    yield measured(record["environment"])
    yield losses(rows)
    if rows[0].floor:
        shown = main_group(rows)
        kind = f"{shown[0].what['dtype']}, {shown[0].what['layout']}, forward and backward"
        yield f"{kind}; ↑ is upsampled twofold:\n"
        yield timings_table([row.named() for row in shown], quartiles=False)
        yield figure(
            bars(shown), f"Speed as a multiple of {shown[0].base}; {kind}. Longer is better; ↑ is with upsampling."
        )
        yield figure(
            roofline(shown),
            f"Unavoidable bytes over time; {kind}. Above the line data stayed in cache between passes.",
        )
        yield folded(f"All {len(rows)} rows, with quartiles and memory", same(rows) + timings_table(rows))
    else:
        yield figure(bars(rows), f"Speed as a multiple of {rows[0].base}. Longer is better.")
        yield same(rows) + timings_table(rows)
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
        points = [timing for each in series.values() for timing in each]
        yield folded("The points of these plots", same(points) + timings_table(points))


def title(name: str) -> str:
    """``model_cuda_bf16`` as ``The whole model on a GPU, bf16``."""
    what, device, *more = [*name.split("_"), "", ""][:3]
    subjects = {"op": "The op", "model": "The whole model", "family": "Generators of the family"}
    subject = subjects.get(what, what)
    return f"{subject} on a {device.replace('cuda', 'GPU').replace('cpu', 'CPU')}" + f", {more[0]}" * bool(more[0])


def measured(environment: dict[str, Any]) -> str:
    """One sentence on how to repeat it: machine, versions, commit and command."""
    machine = environment.get("gpu") or environment.get("cpu")
    threads = f", {environment['threads']} threads" if {"threads", "cpu"} <= environment.keys() else ""
    versions = ", ".join(f"{key} {environment[key]}" for key in ("torch", "cuda", "python") if key in environment)
    commit = f" at commit `{environment['commit']}`" if "commit" in environment else ""
    command = f" by `{environment['command']}`" if "command" in environment else ""
    return f"Measured on: {machine}{threads}; {versions}{commit}{command}.\n"


def same(rows: list[Timing]) -> str:
    """The options that all rows share."""
    shared = (f"{NAMES.get(key, key.replace('_', ' '))} {label(value)}" for key, value in constants(rows).items())
    return f"In all rows: {', '.join(shared)}.\n\n" if constants(rows) else ""


def throughput_table(rows: list[dict[str, Any]]) -> str:
    peers = list(rows[0]["sampling"])
    return table(
        ["batch", *(f"{peer}, pictures per second" for peer in peers)],
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


def headline(record: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """The measures that people compare: what is measured, and it for generated pictures, real ones and chance."""
    found = {name: triple(values) for name, values in record.get("attributes", {}).items()}
    if "best" in record.get("masks", {}):
        masks = record["masks"]
        found["IoU of the best mask"] = number(masks["best"]["iou"]), "", number(masks["constant"])
    if "generated" in record.get("r_precision", {}):
        found["R-precision"] = triple(record["r_precision"])
    return found


def triple(values: dict[str, Any]) -> tuple[str, str, str]:
    generated, real, chance = (number(values.get(key, "")) for key in ("generated", "real", "chance"))
    return generated, real, chance


def number(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.3f}" + (f" ± {value['std']:.3f}" if "std" in value else "")
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def evaluations_section(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for name, record in records.items():
        judge = record.get("r_precision", {}).get("judge", "")
        judge = "each model itself" if judge and judge == record.get("model") else judge
        key = *(str(record.get(field, "")) for field in ("data", "split", "samples")), judge
        groups.setdefault(key, {})[name] = record
    for (data, split, samples, judge), group in groups.items():
        judged = f", R-precision by the encoders of {judge}" if judge else ""
        pictures = f": {samples} pictures of split {split}" if samples else ""
        yield f"### {Path(data).name}{pictures}{judged}\n"
        heads = {name: headline(record) for name, record in group.items()}
        measures = list(dict.fromkeys(measure for head in heads.values() for measure in head))
        if measures:
            yield headline_table(heads, measures)
        columns = {
            name: dict(numbers({key: value for key, value in record.items() if key not in HEADER}))
            for name, record in group.items()
        }
        every = list(dict.fromkeys(measure for column in columns.values() for measure in column))
        lines = [[measure, *(column.get(measure, "") for column in columns.values())] for measure in every]
        listed = table(["measure", *columns], lines)
        yield folded("Every number, and the commands", f"{listed}\n{commands(group)}")


def headline_table(heads: dict[str, dict[str, tuple[str, str, str]]], measures: list[str]) -> str:
    """A column per run. What real pictures reach differs a little between runs that draw their own candidates."""
    lines = []
    for m in measures:
        generated, real, chance = zip(*(head.get(m, ("", "", "")) for head in heads.values()), strict=True)
        lines.append([m, *generated, "–".join(dict.fromkeys((min(real), max(real)))), max(chance)])
    return table(["", *(name.replace("_", " ") for name in heads), "real pictures", "chance"], lines)


def comparison(record: dict[str, Any]) -> Iterator[str]:
    """A column per variant: the mean over seeds, and the least and most of them."""
    variants = record["variants"]
    counts = {len(variant["seeds"]) for variant in variants.values()}
    seeds = "–".join(map(str, sorted({min(counts), max(counts)})))
    yield f"{record['minutes']} minutes of one core each, {seeds} seeds: the mean, and the least and the most.\n"
    names = list(dict.fromkeys(name for variant in variants.values() for name in variant["values"]))
    lines = [["steps", *(str(variant["steps"]) for variant in variants.values()), ""]]
    for name in names:
        cells = [spread(variant["values"].get(name, [])) for variant in variants.values()]
        real = record["real"].get(name)
        lines.append([name.replace("_", " "), *cells, "" if real is None else f"{real:.3f}"])
    yield table(["", *variants, "real pictures"], lines)
    flags = "\n".join(
        f"- {name}: `{variant['program']} train {variant['flags']}`" for name, variant in variants.items()
    )
    yield folded("The commands", f"{measured(record['environment'])}\n{flags}\n")


def spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{sum(values) / len(values):.3f} ({min(values):.3f}–{max(values):.3f})"


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
    yield folded("The commands", commands(records))


def commands(records: dict[str, dict[str, Any]]) -> str:
    return "\n".join(f"- {name}: `{record['command']}`" for name, record in records.items()) + "\n"


def page(results: Path) -> str:
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    records = {name: record for name, record in records.items() if "times" not in record}  # see comparison.py
    timed = {name: record for name, record in records.items() if "rows" in record}
    compared = {name: records.pop(name) for name in list(records) if "variants" in records[name]}
    runs = {name: record for name, record in records.items() if "flags" in record}
    evaluations = {
        name: record
        for name, record in records.items()
        if "command" in record and not {"flags", "rows"} & set(record)
    }
    parts: list[str] = []
    for name, record in timed.items():
        parts += timed_section(name, record)
    if not timed:
        parts.append("## Speed\n\nNo timings have been recorded: `python benchmarks/op.py` writes them.\n")
    if evaluations:
        parts += ["## What trained models reach\n", *evaluations_section(evaluations)]
    for name, record in compared.items():
        of = name.removeprefix("comparison_").replace("_", " ")
        parts += [f"## Generators and recipes compared, {of}\n", *comparison(record)]
    if runs:
        parts += ["## Training runs\n", *runs_section(runs)]
    return "\n".join(parts)


def main(results: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
