"""CLIP as a judge: its codes are those of the whole model, read from a folder that a tiny one was saved to."""

import hashlib
import json
import sys

import pytest
import torch

from t2ilayers.metrics import CLIPEncoder

from published import data

CAPTIONS = ["a red star", "a blue ring " * 20, "star"]


@pytest.fixture
def folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=20
    )
    side = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=side | ends | {"vocab_size": len(words), "max_position_embeddings": 20},
        vision_config=side | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    size = {"shortest_edge": 32}
    processor = transformers.CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32})
    for part in (transformers.CLIPModel(config), tokenizer, processor):
        part.save_pretrained(tmp_path)
    return tmp_path


def test_codes_are_those_of_the_whole_model(folder):
    transformers = pytest.importorskip("transformers")
    encoder = CLIPEncoder(folder)
    assert encoder.source == str(folder)
    assert encoder.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    pixels = (data("clip", (3, 3, 32, 32), 0, 255)).round()  # no resizing, so the input is known
    mean, std = (
        torch.tensor(getattr(encoder._processor, f"image_{name}"))[:, None, None] for name in ("mean", "std")
    )
    inputs = transformers.CLIPTokenizer.from_pretrained(folder)(CAPTIONS, padding=True, truncation=True)
    assert len(inputs["input_ids"][1]) == 20
    inputs = {name: torch.tensor(rows) for name, rows in inputs.items()}
    with torch.no_grad():
        whole = transformers.CLIPModel.from_pretrained(folder).eval()(
            pixel_values=(pixels / 255 - mean) / std, **inputs
        )

    def unit(codes):
        return codes / codes.norm(dim=1, keepdim=True)

    torch.testing.assert_close(unit(encoder.images(pixels / 127.5 - 1)), whole.image_embeds)
    torch.testing.assert_close(unit(encoder.sentences(CAPTIONS)), whole.text_embeds)
    assert encoder.images(torch.zeros(2, 3, 48, 48)).shape == encoder.sentences(["a", "b"]).shape == (2, 12)


def test_nothing_is_downloaded():
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match=r"openai.clip-vit-base-patch32"):
        CLIPEncoder("openai/clip-vit-base-patch32")


def test_without_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 't2ilayers\[clip\]'"):
        CLIPEncoder(tmp_path)
