"""FID and inception score for ``t2ilayers evaluate``: the flags, and what they ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from ..encoders.inception_weights import InceptionKind
from ..metrics import PROTOCOLS, GaussianStatistics, InceptionV3, PictureStatistics, frechet_distance

NO_DEFAULT = tyro.conf.arg(help_behavior_hint="(default: none)")  # instead of "(default: )"
ProtocolName = Literal["clean", "pytorch-fid", "df-legacy"]


@dataclass
class InceptionArguments:
    """What FID and inception score are asked for.

    Attributes:
        inception_weights: Files: pytorch-fid's port for clean and pytorch-fid, torchvision's for df-legacy.
            random:SEED is a dry run, whose numbers mean nothing.
        reference: Statistics of real pictures, npz files with mu and sigma, one for each protocol; by default they
            are computed from the pictures that the captions belong to.
    """

    protocol: Annotated[list[ProtocolName], NO_DEFAULT] = field(default_factory=list)
    """How FID and inception score are computed; by default in each way that the Inception weights allow."""
    inception_weights: Annotated[list[str], NO_DEFAULT] = field(default_factory=list)
    inception_sha256: Annotated[list[str], NO_DEFAULT] = field(default_factory=list)
    """Their SHA-256, one for each file; published files need none."""
    reference: Annotated[list[Path], NO_DEFAULT] = field(default_factory=list)
    save_reference: Annotated[list[Path], NO_DEFAULT] = field(default_factory=list)
    """Where to write these statistics, one file for each protocol."""


@dataclass
class Judge:
    """One protocol: what it has seen of generated pictures, and of real ones or a file about them."""

    generated: PictureStatistics
    real: PictureStatistics | GaussianStatistics
    read_from: Path | None = None
    save_to: Path | None = None


def open_judges(arguments: InceptionArguments, device: torch.device) -> list[Judge]:
    """A judge for each protocol; all that can be wrong with the flags and files is found here, before the work."""
    networks = open_networks(arguments.inception_weights, arguments.inception_sha256)
    names: Sequence[str] = arguments.protocol or [
        name for name, way in PROTOCOLS.items() if way.weights in networks
    ]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"--protocol names {', '.join(repeated)} twice")
    for name in names:
        if PROTOCOLS[name].weights not in networks:
            raise ValueError(
                f"--protocol {name} needs {PROTOCOLS[name].weights} weights; give their file with "
                "--inception-weights, or random:SEED for a dry run"
            )
    if arguments.reference and arguments.save_reference:
        raise ValueError("--save-reference writes what --reference would read; give one of them")
    for flag, paths in (("--reference", arguments.reference), ("--save-reference", arguments.save_reference)):
        if paths and len(paths) != len(names):
            raise ValueError(
                f"{flag} must name one file for each protocol ({', '.join(names) or 'none'}), got {len(paths)}"
            )
    judges = []
    for i, name in enumerate(names):
        network = networks[PROTOCOLS[name].weights].to(device)
        judge = Judge(PictureStatistics(PROTOCOLS[name], network), PictureStatistics(PROTOCOLS[name], network))
        if arguments.reference:
            judge.read_from = arguments.reference[i]
            judge.real = read_reference(judge.read_from, judge.generated.label)
        if arguments.save_reference:
            judge.save_to = arguments.save_reference[i]
            judge.save_to.parent.mkdir(parents=True, exist_ok=True)
        judges.append(judge)
    return judges


def open_networks(sources: list[str], hashes: list[str]) -> dict[InceptionKind, InceptionV3]:
    if hashes and len(hashes) != len(sources):
        raise ValueError(
            f"--inception-sha256 must be one for each of {len(sources)} --inception-weights, got {len(hashes)}"
        )
    networks: dict[InceptionKind, InceptionV3] = {}
    for i, source in enumerate(sources):
        word, _, seed = source.partition(":")
        if word == "random" and seed.isdecimal():
            opened = [InceptionV3.random(kind, seed=int(seed)) for kind in get_args(InceptionKind)]
        else:
            opened = [InceptionV3.from_file(source, sha256=hashes[i] if hashes else None)]
        for network in opened:
            if network.kind in networks:
                raise ValueError(f"--inception-weights has {network.kind} weights twice")
            networks[network.kind] = network
    return networks


def read_reference(path: Path, label: str) -> GaussianStatistics:
    reference = GaussianStatistics.load(path)
    if len(reference.mu) != 2048:
        raise ValueError(f"{path} must have statistics of 2048 features, got {len(reference.mu)}")
    if reference.label not in ("", label):
        raise ValueError(f"{path} has the statistics of {reference.label!r}, asked for are {label!r}")
    return reference


def measure_inception(
    judges: list[Judge], pictures: Iterable[tuple[torch.Tensor, torch.Tensor]], real_pictures: int
) -> dict[str, Any]:
    """What the judges find in batches of generated and real pictures; real ones repeat after ``real_pictures``."""
    unseen = real_pictures
    for generated, real in pictures:
        for judge in judges:
            judge.generated.update(generated)
            if isinstance(judge.real, PictureStatistics) and unseen > 0:
                judge.real.update(real[:unseen])
        unseen -= len(real)
    return {judge.generated.protocol.name: verdict(judge) for judge in judges}


def verdict(judge: Judge) -> dict[str, Any]:
    fake = judge.generated.gaussian()
    if isinstance(judge.real, PictureStatistics):
        reference, real_score = judge.real.gaussian(), score(judge.real)
    else:
        reference, real_score = judge.real, {"skipped": "the reference was read from a file"}
    if judge.save_to is not None:
        reference.save(judge.save_to)
    network = judge.generated.network
    return {
        "fid": frechet_distance(fake.mu, fake.sigma, reference.mu, reference.sigma),
        "inception_score": {"generated": score(judge.generated), "real": real_score},
        "samples": fake.count,
        "reference": {
            "file": None if judge.read_from is None else str(judge.read_from),
            "samples": reference.count,
            "label": reference.label,
        },
        "protocol": asdict(judge.generated.protocol),
        "weights": {"source": network.source, "sha256": network.sha256, "random": network.sha256 is None},
    }


def score(statistics: PictureStatistics) -> dict[str, Any]:
    try:
        return statistics.inception_score()._asdict()
    except ValueError as error:  # fewer pictures than splits: the distance stands
        return {"skipped": str(error)}
