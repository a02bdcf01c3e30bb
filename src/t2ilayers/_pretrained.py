"""The folder of a saved model: config.json, vocabulary.json and model.safetensors; and models by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ._files import read_regular, shown, some, written_whole
from ._hub import download, is_repository
from ._weights import read_safetensors, write_safetensors
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:
    DataclassInstance = object

CONFIG, VOCABULARY, WEIGHTS = "config.json", "vocabulary.json", "model.safetensors"
_MOST_CONFIG = 2**20  # bytes
PRETRAINED = Path(__file__).with_name("pretrained")  # models that come with the package, one folder each


class JSONConfig(DataclassInstance):
    """What the configs of models, frozen dataclasses, have in common: checked types, and a JSON form.

    Raises:
        ValueError: a value that is not of its field's type; whole numbers are sizes, from 1 to 2^31 - 1.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _fits(value, hint):
                raise ValueError(f"{name} must be {_described(hint)}, got {shown(value)}")

    def to_json(self) -> str:
        """The config as a JSON object.

        Example:
            >>> from t2ilayers import SSAGANConfig
            >>> SSAGANConfig(ngf=32).to_json().splitlines()[2]
            '  "ngf": 32,'
        """
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, others: bool = False) -> Self:
        """The config of a JSON object.

        Args:
            text: the object; a field that it lacks has its default.
            others: leave out keys that are no fields of this config, instead of refusing them.

        Raises:
            ValueError: no JSON object, an unknown key, or a value that is not of its field's type.

        Example:
            >>> from t2ilayers import SSAGANConfig
            >>> SSAGANConfig.from_json('{"ngf": 32}').ngf
            32
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"a config must be a JSON object, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        if others:
            values = {name: value for name, value in values.items() if name in known}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown config keys {some(unknown)}; known are {some(sorted(known), most=99)}")
        return cls(**values)


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is int:
        return type(value) is int and 1 <= value < 2**31
    if hint is float:
        return type(value) in (int, float)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_described(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(json.dumps, get_args(hint)))
    return {int: "a whole number from 1 to 2^31 - 1", float: "a number", type(None): "null"}.get(
        hint, hint.__name__
    )


def pretrained_names() -> list[str]:
    """The models that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{CONFIG}"))


def model_folder(name: str | os.PathLike[str]) -> Path:
    """The folder that ``name`` stands for: that folder itself, else a model of the package, else one of the Hub.

    Raises:
        FileNotFoundError: none of them; the message lists the package's models, or says why the Hub gave none.
        ImportError: ``user/repo``, and the extra ``hub`` is not installed.
    """
    folder = Path(name)
    if folder.exists():
        return folder
    if os.fspath(name) in pretrained_names():
        return PRETRAINED / folder
    if isinstance(name, str) and is_repository(name):
        return download(name, [CONFIG, VOCABULARY, WEIGHTS, "captions.txt"])
    raise FileNotFoundError(
        f"{os.fspath(name):.200} holds no {CONFIG}: there is no such folder; a model folder is written by "
        f"save_pretrained, and models of the package are {', '.join(pretrained_names()) or 'none'}"
    )


def save_folder(
    folder: str | os.PathLike[str],
    module: nn.Module,
    config: JSONConfig,
    vocabulary: Vocabulary | None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model's three files into ``folder``, each of them whole or not at all.

    Args:
        folder: of the files, made if it is missing.
        module: the model.
        config: its sizes.
        vocabulary: its words.
        dtype: of the floating-point weights in the file; None keeps what they have.

    Raises:
        ValueError: no vocabulary: weights that no caption can reach are no model; or weights that are no longer
            finite as ``dtype``.
        OSError: the disk's own error.
    """
    if vocabulary is None:
        raise ValueError("a model is saved with its vocabulary, got none; set model.vocabulary first")
    weights: dict[str, Tensor] = module.state_dict()
    if dtype is not None:
        weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
        if lost := [key for key, value in weights.items() if not value.isfinite().all()]:
            raise ValueError(f"weights must be finite as {dtype}, got {some(lost)}; save them in float32")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save(folder / VOCABULARY)
    write_safetensors(weights, folder / WEIGHTS)
    with written_whole(folder / CONFIG) as path:
        path.write_text(config.to_json())


class SavedModel(NamedTuple):
    """What a model's folder holds: the text of its config, the vocabulary, and weights that are not read yet."""

    config: str
    vocabulary: Vocabulary
    weights: dict[str, Tensor]


@contextmanager
def saved_model(folder: str | os.PathLike[str]) -> Iterator[SavedModel]:
    """The files that :func:`save_folder` wrote; what turns out to be wrong with them names the folder.

    Args:
        folder: of the files, or the name of a model that comes with the package.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        OSError: a file cannot be read.
        ValueError: files that do not belong together or are damaged; the message says how.
    """
    folder = model_folder(folder)
    for name in (CONFIG, VOCABULARY, WEIGHTS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} holds no {name}; a model folder is written by save_pretrained")
    try:
        text = read_regular(folder / CONFIG, _MOST_CONFIG).decode()
        yield SavedModel(text, Vocabulary.load(folder / VOCABULARY), read_safetensors(folder / WEIGHTS))
    except OSError:
        raise
    except Exception as error:  # sizes of a config may break any of the modules
        raise ValueError(f"{folder} is not a complete model: {error!s:.1500}") from error
