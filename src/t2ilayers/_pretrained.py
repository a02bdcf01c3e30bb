"""The folder of a saved model: config.json, vocabulary.json and model.safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn
from typing_extensions import Self

from ._files import some, written_whole
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:
    DataclassInstance = object

CONFIG, VOCABULARY, WEIGHTS = "config.json", "vocabulary.json", "model.safetensors"


class JSONConfig(DataclassInstance):
    """What the configs of models, frozen dataclasses, have in common: they round-trip through JSON."""

    def to_json(self) -> str:
        """The config as a JSON object.

        Example:
            >>> from t2ilayers import SSAGANConfig
            >>> SSAGANConfig(ngf=32).to_json().splitlines()[2]
            '  "ngf": 32,'
        """
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The config of a JSON object; ValueError names unknown keys and text that is no JSON object.

        Example:
            >>> from t2ilayers import SSAGANConfig
            >>> SSAGANConfig.from_json('{"ngf": 32}').ngf
            32
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"a config must be a JSON object, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown config keys {some(unknown)}; known are {some(sorted(known), most=99)}")
        return cls(**values)


ConfigT = TypeVar("ConfigT", bound=JSONConfig)
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def save_folder(
    folder: str | os.PathLike[str], module: nn.Module, config: JSONConfig, vocabulary: Vocabulary | None
) -> None:
    """Write a model's three files into ``folder``, each of them whole or not at all.

    Raises:
        ValueError: no vocabulary: weights that no caption can reach are no model.
        OSError: the disk's own error.
    """
    if vocabulary is None:
        raise ValueError("a model is saved with its vocabulary, got none; set model.vocabulary first")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save(folder / VOCABULARY)
    with written_whole(folder / WEIGHTS) as path:
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
    with written_whole(folder / CONFIG) as path:
        path.write_text(config.to_json())


def load_folder(
    folder: str | os.PathLike[str],
    config_class: type[ConfigT],
    build: Callable[[ConfigT, Vocabulary], ModuleT],
) -> ModuleT:
    """What :func:`save_folder` wrote, on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        ValueError: files that do not belong together or are damaged; the message says how.
    """
    folder = Path(folder)
    for name in (CONFIG, VOCABULARY, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}; a model folder is written by save_pretrained")
    try:
        config = config_class.from_json((folder / CONFIG).read_text())
        module = build(config, Vocabulary.load(folder / VOCABULARY))
        module.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:
        raise ValueError(f"{folder} is not a complete model: {error}") from error
    return module.eval()
