"""Pickles of plain data, from strangers: nothing in the file is called, whatever it asks for.

A pickle is a program that names functions to call. This reader answers the few names that plain containers,
numbers, strings, bytes and numpy arrays need with functions of its own, and refuses every other name. Numpy's
own functions are not among them: they trust what they are given, and a forged dtype makes them follow
pointers that the file chose.
"""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 256 * 2**20  # 600,000 captions of eleven words take some 25 MB

_DTYPE = re.compile(r"[<>=|]?([biufc]\d{1,2}|[SU]\d{1,6})")


def load(path: str | os.PathLike[str]) -> Any:
    """What a pickle of plain data holds, also one that Python 2 wrote (its strings are read as Latin-1).

    Admitted are None, booleans, numbers, strings, bytes, lists, tuples, dicts, sets, and numpy scalars and
    arrays of booleans, numbers, bytes or strings. Arrays may be of a subclass; ``np.array`` makes plain ones.
    Of memory only the file's size is bounded: a small hostile file can make Python's reader take gigabytes.

    Args:
        path: a file of at most 256 MiB.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: the file is too large, damaged or no pickle, or needs anything else; the message names the
            file and what it asked for.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "filenames.pickle")
        ...     _ = path.write_bytes(pickle.dumps(["a", "b"], protocol=2))
        ...     names = load(path)
        ...     _ = path.write_bytes(pickle.dumps(print))
        ...     try:
        ...         load(path)
        ...     except ValueError as error:
        ...         print(str(error).partition("filenames.pickle ")[2])
        is no pickle of plain data: it asks for builtins.print, which was not run; ...
        >>> names
        ['a', 'b']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")  # nor a pipe, which would be waited for
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(f"{path} has {size} bytes; a pickle is read up to {MAX_BYTES}")
        try:
            return _Unpickler(file, encoding="latin1").load()
        except Exception as error:  # damaged files make the reader raise nearly anything
            raise ValueError(f"{path} is no pickle of plain data: {str(error) or type(error).__name__}") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which was not run; plain containers, numbers, strings, bytes "
                "and numpy arrays of them need no such thing"
            )
        return _ADMITTED[module, name]


class _Frozen:
    """A function without the attributes that a pickle could set on it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it sets {name} of a function")

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _DType:
    """Stands for a dtype, of which it takes the letter, size and byte order and nothing else."""

    def __init__(self, name: str, align: object = False, copy: object = True) -> None:
        if not _DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it has an array of dtype {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An empty array until its state comes, which must fit its data."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        array = _from_bytes(data, kind, shape, "F" if fortran else "C")
        plain: Any = (1, array.shape, array.dtype, bool(fortran), array.tobytes("A"))
        super().__setstate__(plain)


def _array(*_: object) -> _Array:
    return np.empty(0).view(_Array)


def _from_bytes(data: Any, kind: _DType, shape: tuple[int, ...], order: Any) -> np.ndarray[Any, Any]:
    content = _encode(data, "latin1") if isinstance(data, str) else bytes(memoryview(data))
    if len(content) != math.prod(shape) * kind.dtype.itemsize:
        raise pickle.UnpicklingError(f"it has {len(content)} bytes for an array {shape} of {kind.dtype}")
    return np.ndarray(shape, kind.dtype, content, order=order)


def _scalar(kind: _DType, data: Any) -> Any:
    return _from_bytes(data, kind, (), "C")[()]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes a string as {encoding!r}")  # some codecs import modules
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_ADMITTED: dict[tuple[str, str], object] = {
    ("numpy", "dtype"): _Frozen(_DType),
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct
    ("_codecs", "encode"): _Frozen(_encode),
}
for _numpy in ("numpy.core", "numpy._core"):
    _ADMITTED |= {
        (f"{_numpy}.multiarray", "_reconstruct"): _Frozen(_array),
        (f"{_numpy}.multiarray", "scalar"): _Frozen(_scalar),
        (f"{_numpy}.numeric", "_frombuffer"): _Frozen(_from_bytes),
    }
for _builtins in ("builtins", "__builtin__"):
    _ADMITTED |= {
        (_builtins, "set"): set,
        (_builtins, "frozenset"): frozenset,
        (_builtins, "bytes"): _Frozen(_no_bytes),  # how protocols before 3 write b""
    }
