"""What hatchling does not do by itself: a wheel with the CPU's kernels, and addresses for the package index.

``make wheel`` asks for the kernels by T2ILAYERS_WHEEL=platform, the release workflow for the addresses by
T2ILAYERS_URL, the repository's. Otherwise, as when pip builds from a checkout, the wheel is pure and knows no
address.
"""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class Kernels(BuildHookInterface[Any]):
    """Puts the library into the wheel, where ``t2ilayers.ops.build`` looks for it before it compiles one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, or take it from the cache, and tag the wheel with this platform."""
        if os.environ.get("T2ILAYERS_WHEEL") != "platform":
            return
        if sys.platform != "linux":
            raise RuntimeError(f"wheels with kernels are made on Linux, got {sys.platform}")
        sys.path.insert(0, str(Path(self.root) / "src"))
        from t2ilayers.ops import build

        options = build.find_compiler("cpu").command[1:]
        if options:
            raise RuntimeError(f"a wheel runs on other processors; CXX must have no options, got {options}")
        library = build.build("cpu")
        name = f"{build.carried_key()}-{library.stem.rpartition('-')[2]}.so"
        build_data["force_include"][str(library)] = f"t2ilayers/ops/libraries/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"  # auditwheel says which Linux


class Addresses(MetadataHookInterface):
    """The README, whose pictures and links the package index shows only under full addresses, and project urls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme`` and ``urls``."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        url = os.environ.get("T2ILAYERS_URL", "").rstrip("/")
        metadata["urls"] = {}
        if url:
            tag = f"v{metadata['version']}"
            text = re.sub(r"(!\[[^]]*\]\()(?=docs/)", rf"\g<1>{url}/raw/{tag}/", text)
            text = text.replace("](../../", f"]({url}/")  # pages of the repository's host
            text = re.sub(r"(\]\()(?=docs/|examples/|benchmarks/)", rf"\g<1>{url}/blob/{tag}/", text)
            pages = {"Source": "", "Changelog": f"/blob/{tag}/CHANGELOG.md", "Issues": "/issues"}
            metadata["urls"] = {name: url + path for name, path in pages.items()}
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
