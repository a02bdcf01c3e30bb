"""Compile and link one library by ``torch.utils.cpp_extension``; ``build.py`` runs this file as a program.

setuptools changes the process it runs in: loggers, warnings, distutils' state. And a compiler that hangs can only
be ended together with what started it. So both get a process, which imports torch but nothing of this package.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from setuptools import Distribution
from torch.utils import cpp_extension


def main() -> None:
    """Build what the JSON in the first argument describes, in the working folder, as ``library.so``."""
    job = json.loads(sys.argv[1])
    # What setuptools runs is shown should it fail. ninja shows its own commands.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options = {
        "sources": job["sources"],
        "extra_compile_args": {"cxx": job["compile"], "nvcc": job["compile"]},
        "py_limited_api": True,  # without libtorch_python: the library knows no Python
    }
    if job["device"] == "cpu":
        extension = cpp_extension.CppExtension("library", **options)  # type: ignore[no-untyped-call]
    else:
        cpp_extension.CUDA_HOME = job["cuda_home"]  # torch looks for none where it is built without CUDA
        extension = cpp_extension.CUDAExtension("library", **options)  # type: ignore[no-untyped-call]
        # The linker, nvcc, adds the static runtime, and the link arguments what else torch has for CUDA.
        extension.libraries = ["torch_cpu"]
    extension.language = (
        "c"  # C++ sources are known as such; for "c++" setuptools would change the linker's command
    )

    class Build(cpp_extension.BuildExtension):
        def build_extensions(self) -> None:
            # Not the flags that this Python was once compiled with: the library's key would have to hold them.
            names = {"compiler_so", "compiler_so_cxx", "compiler_cxx"}  # the second is unknown to older setuptools
            compiler = dict.fromkeys(names & set(self.compiler.executables), job["compiler"])
            self.compiler.set_executables(**compiler, linker_so=job["linker"])
            super().build_extensions()

        def build_extension(self, extension: Any) -> None:
            one_by_one = self.compiler.compile

            def at_once(sources: list[str], **options: Any) -> list[str]:
                with ThreadPool(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
                    objects = pool.imap(lambda source: one_by_one([source], **options), sources)
                    return [*chain.from_iterable(objects)]

            # For CUDA torch changes the compiler's settings from file to file.
            if job["device"] == "cpu" and not self.use_ninja:
                self.compiler.compile = at_once
            super().build_extension(extension)

    # torch takes a compiler of several words for a file name, and quotes none of these in its ninja file.
    simple = len(job["compiler"]) == 1 and not set("$:|\n") & set(str(Path.cwd()))
    ninja = simple and cpp_extension.is_ninja_available()
    command = Build(Distribution({"name": "t2ilayers", "ext_modules": [extension]}), use_ninja=ninja)
    command.build_lib, command.build_temp = "lib", "objects"
    command.ensure_finalized()
    try:
        command.run()
    except Exception as error:  # setuptools', torch's or the system's: the compiler has said more above
        sys.exit(str(error))
    Path(command.get_ext_fullpath("library")).replace("library.so")


if __name__ == "__main__":
    main()
