"""Models on the Hugging Face Hub (extra ``hub``), and the card that describes a model."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path

from ._files import some, written_whole

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FACTS = {"data": "Data", "license": "License", "figures": "Figures", "command": "Command"}
CARD, SHEET = "README.md", "sheet.png"


def is_repository(name: str) -> bool:
    """Whether ``name`` has the form of a repository, ``user/repo``.

    Example:
        >>> (
        ...     is_repository("user/birds-64"),
        ...     is_repository("../birds"),
        ...     is_repository("birds"),
        ... )
        (True, False, False)
    """
    return _REPOSITORY.fullmatch(name) is not None


def _needs_hub(purpose: str) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ImportError(f"{purpose} needs huggingface_hub: pip install 't2ilayers[hub]'")


def download(name: str, files: list[str]) -> Path:
    """The folder of the repository ``name`` in the Hub's cache, fetched first where it is not there yet.

    Raises:
        ImportError: the extra ``hub`` is not installed.
        FileNotFoundError: there is no such repository, or no connection and nothing in the cache.
    """
    _needs_hub(f"{name} is no folder here; looking for it on the Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its client, also no connection

    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (HTTPError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is no folder here, and the Hub did not give it ({type(error).__name__}: "
            f"{_sentence(error)}); check the name, the connection and, if it is private, `hf auth login`"
        ) from error


def upload(folder: Path, name: str, *, private: bool) -> str:
    """Send the files of ``folder`` to the repository ``name``, made if it is missing; returns its address.

    Raises:
        ImportError: the extra ``hub`` is not installed.
        ValueError: no name of a repository.
        OSError: the Hub was not reached or refused.
    """
    if not is_repository(name):
        raise ValueError(f"a repository must be named user/name, got {name:.200}")
    _needs_hub("push_to_hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its client, also no connection

    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model of t2ilayers")
    except (HTTPError, OSError, ValueError) as error:
        raise OSError(
            f"the Hub did not take {name} ({type(error).__name__}: {_sentence(error)}); check the connection and "
            f"`hf auth login`"
        ) from error
    return str(address)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:500].rstrip(". ")


def write_card(folder: Path, facts: Mapping[str, str], caption: str, *, sheet: bool) -> None:
    """Write a model's ``README.md``, as the Hub shows it.

    Args:
        folder: of the model.
        facts: any of ``data``, ``license``, ``figures`` and ``command``.
        caption: one that the model knows, for the example.
        sheet: whether :data:`SHEET` lies beside it.

    Raises:
        ValueError: another fact.
    """
    check_facts(facts)
    # Each value as JSON, which is YAML whatever it contains.
    head = ["---", "library_name: t2ilayers", "pipeline_tag: text-to-image", "tags: [gan, ssa-gan]"]
    if "license" in facts:
        head.append(f"license: {json.dumps(facts['license'].lower())}")
    parts = ["\n".join([*head, "---"]), "# Text to image with t2ilayers"]
    if sheet:
        parts.append(f"![Captions and the pictures drawn for them]({SHEET})")
    parts.append(
        "```python\nfrom t2ilayers import SSAGAN\n\n"
        'model = SSAGAN.from_pretrained("user/repo")  # this repository, or its folder\n'
        f"model.generate([{json.dumps(caption, ensure_ascii=False)}], seed=0).pictures()[0]\n```"
    )
    for fact, title in _FACTS.items():
        if fact in facts:
            text = facts[fact].strip()
            parts.append(f"## {title}\n\n" + (f"```sh\n{text}\n```" if fact == "command" else text))
    with written_whole(folder / CARD) as path:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def check_facts(facts: Mapping[str, str]) -> None:
    """ValueError for a fact that a card does not have."""
    if unknown := sorted(set(facts) - set(_FACTS)):
        raise ValueError(f"a card's facts must be among {', '.join(_FACTS)}, got {some(unknown)}")
