"""CLIP as a judge of captions: codes of pictures and sentences. Needs transformers (extra ``clip``)."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._finite import check_finite


class CLIPEncoder:
    """Codes of pictures and sentences by a CLIP that lies on this machine; nothing is downloaded.

    It has not seen what the generator was trained with, unlike the DAMSM encoders, which a generator may have
    learned to please.

    Args:
        folder: as ``save_pretrained`` of transformers writes it, with ``model.safetensors``.
        device: where the model is to be.

    Attributes:
        source: the folder.
        sha256: of ``model.safetensors``.

    Raises:
        ImportError: transformers 5 is not installed.
        FileNotFoundError: there is no ``model.safetensors`` in the folder.
        OSError, ValueError: what transformers raises for a folder that is not complete.
        ValueError: weights that are not finite.

    Source: Radford et al., arXiv 2103.00020; the R-precision with it, Park et al., "Benchmark for Compositional
    Text-to-Image Synthesis", 2021.
    """

    def __init__(self, folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        try:
            transformers = importlib.import_module("transformers")  # slow to import, and without types
            processor = transformers.CLIPImageProcessorPil
        except (ImportError, AttributeError) as error:
            raise ImportError("CLIP needs transformers 5: pip install 't2ilayers[clip]'") from error
        weights = Path(folder) / "model.safetensors"
        self.source = os.fspath(folder)
        self.sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        local: dict[str, Any] = {"local_files_only": True}
        self._model = transformers.CLIPModel.from_pretrained(folder, use_safetensors=True, **local)
        for name, weight in self._model.named_parameters():
            if not weight.isfinite().all():
                raise ValueError(f"{weights}: {name} must be finite, got inf or nan")
        self._model.requires_grad_(False).eval().to(device)
        self._tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, **local)
        self._processor = processor.from_pretrained(folder, **local)

    def images(self, images: Tensor) -> Tensor:
        """Codes ``(N, D)`` of pictures ``(N, 3, H, W)`` in [-1, 1], as if they had been saved with 8 bits.

        Raises:
            ValueError: pictures that are not finite.
        """
        check_finite("images", images)
        pixels = ((images.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        inputs = self._processor(list(pixels.numpy()), return_tensors="pt", input_data_format="channels_first")
        pooled = self._model.vision_model(inputs["pixel_values"].to(self._model.device)).pooler_output
        return self._model.visual_projection(pooled)

    def sentences(self, captions: Sequence[str]) -> Tensor:
        """Codes ``(N, D)`` of sentences, which are cut to the length that the model reads."""
        inputs = self._tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        pooled = self._model.text_model(**inputs.to(self._model.device)).pooler_output
        return self._model.text_projection(pooled)
