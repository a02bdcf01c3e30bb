"""What a wheel for one platform has besides the pure one: the CPU's kernels, built.

``make wheel`` asks for it by T2ILAYERS_WHEEL=platform. Otherwise, as when pip builds from a checkout, this does
nothing and the wheel is pure.
"""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


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
