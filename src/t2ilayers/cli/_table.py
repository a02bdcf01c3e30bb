"""The table that ``t2ilayers evaluate`` prints of its results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def print_table(results: dict[str, Any]) -> None:
    def row(title: str, *cells: str | float) -> None:
        texts = (cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells)
        print(f"{title:<34}" + "".join(f"{text:>16}" for text in texts))

    if "attributes" in results:
        print()
        row("Attributes that captions name", "generated", "real", "chance")
        for name, scores in results["attributes"].items():
            row(f"  {name}", *scores.values())
    if "masks" in results:
        masks = results["masks"]
        print()
        row("IoU of masks with the foreground", "mask", "inverted")
        for stage in masks["stages"]:
            best = ", the best" if stage == masks["best"] else ""
            row(f"  {stage['side']} px{best}", stage["iou"], stage["inverted_iou"])
        row("  constant mask", masks["constant"])
    print()
    inception = results["inception"]
    if "skipped" in inception:
        print(f"FID and inception score: skipped, {inception['skipped']}")
    else:
        row("Inception", "FID", "IS generated", "IS real")
        for name, scores in inception.items():
            means = (scores["inception_score"][which].get("mean", "-") for which in ("generated", "real"))
            row(f"  {name}", scores["fid"], *means)
            if scores["weights"]["random"]:
                print(f"    with weights {scores['weights']['source']}: THESE NUMBERS MEAN NOTHING")
    print()
    for title, key in (("R-precision", "r_precision"), ("R-precision by CLIP", "r_precision_clip")):
        score = results.get(key, {})
        if "skipped" in score:
            print(f"{title}: skipped, {score['skipped']}")
        elif score:
            row(title, "generated", "real", "chance")
            pairs = (f"{score[name]['mean']:.3f} ± {score[name]['std']:.3f}" for name in ("generated", "real"))
            row(f"  of {score['candidates']} captions", *pairs, score["chance"])
    if "outside" in results:
        print()
        row("By the outside judge", "generated", "real", "chance")
        for title, cells in outside_rows(results["outside"]):
            row(f"  {title}", *cells)


def outside_rows(found: dict[str, Any]) -> Iterator[tuple[str, list[str | float]]]:
    """Each measure's title with its cells: of generated pictures, of real ones, and by chance."""

    def cells(key: str, *columns: str | float) -> list[str | float]:
        """A column is a number or "-", or the name of a number among the results of ``key``."""
        if "skipped" in found[key]:
            return [f"skipped, {found[key]['skipped']}"]
        return [found[key].get(column, column) if isinstance(column, str) else column for column in columns]

    retrieved = found["r_precision"]
    means = [retrieved[name]["mean"] for name in ("generated", "real")] if "skipped" not in retrieved else []
    yield "R-precision", cells("r_precision", *means, "chance")
    yield "cFreD", cells("conditional_frechet_distance", "generated", 0.0, "shuffled")
    yield "KID", cells("kernel_distance", "mean", 0.0)
    yield "density", cells("density_coverage", "density", 1.0)
    yield "coverage", cells("density_coverage", "coverage", 1.0)
    yield "Vendi score", cells("vendi", "generated", "real")
    yield "distance within a prompt", cells("prompt_diversity", "same_prompt", "-", "any_prompt")
    yield "data copying", cells("data_copying", "statistic", 0.5)
