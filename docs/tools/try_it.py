"""A hook of mkdocs for the page that draws in the reader's browser: the app's page, and a model of the package."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "src" / "t2ilayers"
MODEL = "pretrained/shapes32"
PARTS = ("config.json", "vocabulary.json", "captions.txt", "model.safetensors")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Puts them beside docs/try/*.mjs, as if they lay there."""
    sources = [PACKAGE / "cli" / "app.html", *(PACKAGE / MODEL / name for name in PARTS)]
    folders = ["try", *["try/shapes32"] * len(PARTS)]
    for folder, source in zip(folders, sources, strict=True):
        files.append(File.generated(config, f"{folder}/{source.name}", abs_src_path=str(source)))
    return files
