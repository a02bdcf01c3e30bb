"""Bars and a roofline as SVG whose colours are the page's, so that they follow its light and dark scheme."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


class Timing(NamedTuple):
    """Peers that computed the same in turn; the first of them is ours."""

    what: dict[str, Any]
    peers: dict[str, dict[str, float]]
    floor: float | None = None  # ms
    copy: float | None = None  # GB/s

    @property
    def ours(self) -> str:
        return next(iter(self.peers))

    @property
    def others(self) -> list[str]:
        return list(self.peers)[1:]

    @property
    def base(self) -> str:
        """What speeds are told against: the first of the others."""
        return self.others[0]

    def median(self, peer: str) -> float:
        return self.peers[peer]["median_ms"]

    def named(self) -> Timing:
        """Told by its short name alone."""
        return self._replace(what={"y": self.name()})

    def name(self) -> str:
        if "part" in self.what:
            return str(self.what["part"]).partition(",")[0]
        form = self.what.get("form", "masked")
        y = label(self.what["shape"][1:]) + (" ↑" if self.what["upsample"] == 2 else "")
        return y if form == "masked" else f"{form} {y}"


def label(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)


def text(x: float, y: float, content: str, *, anchor: str = "start", size: int = 11, kind: str = "") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(content)}</text>"
    )


def svg(title: str, width: float, height: float, body: list[str]) -> str:
    return (
        f'<svg class="t2i" role="img" aria-label="{escape(title)}" width="{1.6 * width:g}" '
        f'viewBox="0 0 {width:g} {height:g}">{"".join(body)}</svg>'
    )


def legend(peers: list[str], x: float) -> str:
    parts = []
    for i, peer in enumerate(peers):
        parts.append(f'<rect class="p{i}" x="{x:g}" y="6" width="10" height="10"/>' + text(x + 14, 15, peer))
        x += 26 + 6.5 * len(peer)
    return "".join(parts)


def bars(rows: list[Timing]) -> str:
    """Speed over that of the base, a bar per peer, with the quartiles as a line."""
    left, width, bar = 108, 400, 11
    peers = list(dict.fromkeys(peer for row in rows for peer in row.peers))
    speeds = [row.median(row.base) / times["quartile1_ms"] for row in rows for times in row.peers.values()]
    scale = (width - left - 34) / max(speeds)
    body, top = [legend(peers, left)], 30
    for row in rows:
        body.append(text(left - 8, top + bar * len(row.peers) / 2 + 3, row.name(), anchor="end"))
        for peer, times in row.peers.items():
            low, middle, high = (
                row.median(row.base) / times[key] for key in ("quartile3_ms", "median_ms", "quartile1_ms")
            )
            kind, length = f"p{peers.index(peer)}", f"{middle * scale:.1f}"
            body.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{length}" height="{bar - 2}"/>')
            body.append(
                f'<path class="spread" d="M{left + low * scale:.1f} {top + 4.5}H{left + high * scale:.1f}"/>'
            )
            body.append(text(left + high * scale + 4, top + 8, f"{middle:.1f}×", size=9, kind="faint"))
            top += bar
        top += 8
    body.insert(1, f'<path class="line" stroke-dasharray="3 3" d="M{left + scale:.1f} 26V{top - 4}"/>')  # behind
    return svg("Speed of each peer as a multiple of the base", width, top, body)


def roofline(rows: list[Timing]) -> str:
    """Unavoidable bytes a second over the size of the map, beside what a copy of that map reaches."""
    roof: dict[float, float] = {}
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        assert row.copy is not None
        megabytes = math.prod(row.what["shape"]) * BYTES[row.what["dtype"]] / 1e6
        roof[megabytes] = max(row.copy, roof.get(megabytes, 0.0))
        for peer, times in row.peers.items():
            points.setdefault(peer, []).append((megabytes, times["of_floor"] * row.copy))
    every = [*roof.items(), *(point for series in points.values() for point in series)]
    left, right, top, bottom = 46, 390, 44, 270
    x, x_ticks = logarithmic([point[0] for point in every], left, right)
    y, y_ticks = logarithmic([point[1] for point in every], bottom, top)

    body = [legend(list(points), 172), '<path class="line" d="M6 11H26"/>', text(30, 15, "a copy: the roof")]
    body.append(f'<rect class="frame" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>')
    body += [text(x(tick), bottom + 14, f"{tick:g}", anchor="middle", size=10, kind="faint") for tick in x_ticks]
    for tick in y_ticks:
        body.append(f'<path class="frame" d="M{left} {y(tick):.1f}H{right}"/>')
        body.append(text(left - 5, y(tick) + 3, f"{tick:g}", anchor="end", size=10, kind="faint"))
    body.append(
        '<path class="line" d="M' + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in sorted(roof.items())) + '"/>'
    )
    for i, series in enumerate(points.values()):
        body += [f'<circle class="p{i}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"/>' for a, b in series]
    body += [text((left + right) / 2, bottom + 30, "size of y, MB", anchor="middle"), text(left, top - 6, "GB/s")]
    return svg("Unavoidable bytes a second over the size of the map", 400, bottom + 38, body)


def growth(series: dict[str, list[Timing]]) -> str:
    """A column per varied quantity, time above memory, a line per peer."""
    shown = {k: [row for row in rows if row.what["part"] == "generator"] for k, rows in series.items()}
    peers = list(next(iter(shown.values()))[0].peers)
    body, wide, high = [legend(peers, 46)], 150, 110
    for column, (varied, rows) in enumerate(shown.items()):
        left = 46 + column * (wide + 44)
        x, _ = logarithmic([row.what[varied] for row in rows], left, left + wide)
        for line, (key, unit) in enumerate((("median_ms", "ms"), ("peak_mib", "MiB"))):
            top = 42 + line * (high + 40)
            y, ticks = logarithmic([t[key] for row in rows for t in row.peers.values()], top + high, top)
            body.append(f'<rect class="frame" x="{left}" y="{top}" width="{wide}" height="{high}"/>')
            body.append(text(left, top - 5, f"{unit} with {varied.replace('_', ' ')}"))
            for tick in ticks:
                body.append(f'<path class="frame" d="M{left} {y(tick):.1f}H{left + wide}"/>')
                body.append(text(left - 4, y(tick) + 3, f"{tick:g}", anchor="end", size=9, kind="faint"))
            for row in rows:
                place, value = x(row.what[varied]), str(row.what[varied])
                body.append(text(place, top + high + 12, value, anchor="middle", size=9, kind="faint"))
            for i, peer in enumerate(peers):
                points = [(x(row.what[varied]), y(row.peers[peer][key])) for row in rows]
                body.append('<path class="line" d="M' + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) + '"/>')
                body += [f'<circle class="p{i}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points]
    return svg("Time and memory with size, batch and width", 46 + 3 * (wide + 44), 42 + 2 * (high + 40), body)


def logarithmic(values: list[float], low: float, high: float) -> tuple[Callable[[float], float], list[float]]:
    """Places on an axis from below the least to above the greatest value, and ticks at 1 and 3 of each decade."""
    least, most = math.log10(min(values)) - 0.08, math.log10(max(values)) + 0.08
    ticks = [m * 10.0**e for e in range(math.floor(least), math.ceil(most) + 1) for m in (1, 3)]
    return (
        lambda value: low + (math.log10(value) - least) / (most - least) * (high - low),
        [tick for tick in ticks if least <= math.log10(tick) <= most],
    )
