"""Pickles of plain data, from strangers: nothing in the file is called, whatever it asks for.

A pickle is a program for a machine with a stack, of which some instructions name functions to call. This reader
carries out those that make plain containers, numbers, strings and bytes, answers the few names that sets and numpy
arrays need with functions of its own, and refuses every other name. Numpy's own functions are not among them: they
trust what they are given, and a forged dtype makes them follow pointers that the file chose. Python's own reader
will not do either: it hashes keys of any depth, and a tuple in a tuple in a tuple and so on ends the process.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..._files import read_regular, shown

MAX_BYTES = 64 * 2**20  # 600,000 captions of eleven words take some 25 MB
_MOST_OBJECTS = 2**23  # beside whole numbers; 600,000 captions are as many lists
_MOST_DIGITS = 1000

_DTYPE = re.compile(r"[<>=|]?([biufc]\d{1,2}|[SU]\d{1,6})")
_SCALARS = (str, bytes, int, float, type(None), np.generic)
_MARK = object()


def load(path: str | os.PathLike[str]) -> Any:
    """What a pickle of plain data holds, also one that Python 2 wrote (its strings are read as Latin-1).

    Admitted are None, booleans, numbers, strings, bytes, lists, tuples, dicts and sets with plain keys, and numpy
    scalars and arrays of booleans, numbers, bytes or strings. Arrays may be of a subclass; ``np.array`` makes
    plain ones. Containers may hold themselves or be nested to any depth: look at types before what recurs.

    Args:
        path: a file of at most 64 MiB; what it holds takes at most some 15 times as much.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: the file is too large, damaged or no pickle, or needs anything else; the message names the
            file and what it asked for.

    Example:
        >>> import pickle, tempfile
        >>> from pathlib import Path
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
    data = read_regular(path, MAX_BYTES)
    try:
        return _Reader(data).read()
    except Exception as error:  # damaged files make the reader raise nearly anything
        reason = "it ends early" if isinstance(error, IndexError | struct.error) else str(error)
        raise ValueError(
            f"{os.fspath(path)} is no pickle of plain data: {reason or type(error).__name__:.500}"
        ) from error


class _Reader:
    """The machine: a stack, in which marks open groups, and what was put aside by number."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.objects = 0
        self.copied = 0

    def read(self) -> Any:
        data, stack, at = self.data, self.stack, 0
        while True:
            code = data[at]
            if code == 0x4D:  # a number of two bytes or one: nearly all of a caption pickle
                stack.append(data[at + 1] | data[at + 2] << 8)
                at += 3
            elif code == 0x4B:
                stack.append(data[at + 1])
                at += 2
            elif code == 0x2E:  # the end
                return stack.pop()
            elif (carry_out := _INSTRUCTIONS.get(code)) is not None:
                self.at = at + 1
                carry_out(self)
                at = self.at
            else:
                raise ValueError(_REFUSED.get(code, f"byte {at} is no instruction"))

    def push(self, value: Any) -> None:
        self.objects += 1
        if self.objects > _MOST_OBJECTS:
            raise ValueError(f"it has more than {_MOST_OBJECTS} objects")
        self.stack.append(value)

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise IndexError
        return self.data[self.at - size : self.at]

    def take_sized(self, width: int) -> bytes:
        """Bytes after their number."""
        return self.take(int.from_bytes(self.take(width), "little"))

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little", signed=True)

    def line(self) -> bytes:
        end = self.data.index(b"\n", self.at)
        line = self.data[self.at : end]
        self.at = end + 1
        return line

    def group(self) -> list[Any]:
        """All above the last mark, which goes too."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("it ends a group that it never began")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"it adds to {shown(self.stack[-1])} as to a {kind.__name__}")
        return self.stack[-1]

    def set_items(self, values: list[Any]) -> None:
        items = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            items[_scalar_key(key)] = value

    def name(self, module: Any, name: Any) -> None:
        if (module, name) not in _ADMITTED:
            raise ValueError(
                f"it asks for {module!s:.100}.{name!s:.100}, which was not run; plain containers, numbers, "
                "strings, bytes and numpy arrays of them need no such thing"
            )
        self.push(_Name(module, name))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            raise ValueError(f"it calls {shown(function)}, which is not callable")
        self.copied += sum(len(value) for value in arguments if isinstance(value, str | bytes))
        self.copied += sum(64 * len(value) for value in arguments if isinstance(value, list))  # bytes in a set
        if self.copied > MAX_BYTES:
            raise ValueError("it makes arrays or sets of the same data again and again")
        self.push(_ADMITTED[function.module, function.name](*arguments))

    def build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if not isinstance(value, _DType | _Array):
            raise ValueError(f"it sets the state of {shown(value)}")
        value.__setstate__(state)


class _Name:
    """A name that was admitted, and may be called or be an argument; it has no state to set."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __repr__(self) -> str:
        return f"{self.module}.{self.name}"


def _scalar_key(key: Any) -> Any:
    if not isinstance(key, _SCALARS):
        raise ValueError(f"it has a {type(key).__name__} as a key")
    return key


def _integer(line: bytes) -> int | bool:
    if len(line) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(line)} digits")
    return line == b"01" if line in (b"00", b"01") else int(line)


def _long(data: bytes) -> int:
    if len(data) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("it has a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _memorize(reader: _Reader, place: int) -> None:
    reader.memo[place] = reader.stack[-1]


def _recall(reader: _Reader, place: int) -> None:
    if place not in reader.memo:
        raise ValueError(f"it recalls {place}, which it never put aside")
    reader.stack.append(reader.memo[place])


def _push_tuple(reader: _Reader, count: int) -> None:
    if len(reader.stack) < count:
        raise IndexError
    values = tuple(reader.stack[-count:])
    del reader.stack[-count:]
    reader.push(values)


def _dictionary(values: list[Any]) -> dict[Any, Any]:
    return {_scalar_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _pop(reader: _Reader) -> Any:
    return reader.stack.pop()


_INSTRUCTIONS: dict[int, Callable[[_Reader], Any]] = {
    ord(code): carry_out
    for code, carry_out in {
        "\x80": lambda reader: reader.take(1),  # protocol
        "\x95": lambda reader: reader.take(8),  # frame
        "(": lambda reader: reader.stack.append(_MARK),
        "0": _pop,
        "1": lambda reader: reader.group(),
        "2": lambda reader: reader.stack.append(reader.stack[-1]),
        "N": lambda reader: reader.stack.append(None),
        "\x88": lambda reader: reader.stack.append(True),
        "\x89": lambda reader: reader.stack.append(False),
        "I": lambda reader: reader.push(_integer(reader.line())),
        "L": lambda reader: reader.push(_integer(reader.line().removesuffix(b"L"))),
        "J": lambda reader: reader.stack.append(reader.number(4)),
        "\x8a": lambda reader: reader.push(_long(reader.take_sized(1))),
        "\x8b": lambda reader: reader.push(_long(reader.take_sized(4))),
        "F": lambda reader: reader.push(float(reader.line())),
        "G": lambda reader: reader.push(struct.unpack(">d", reader.take(8))[0]),
        "S": lambda reader: reader.push(_quoted(reader.line())),
        "U": lambda reader: reader.push(reader.take_sized(1).decode("latin1")),
        "T": lambda reader: reader.push(reader.take_sized(4).decode("latin1")),
        "V": lambda reader: reader.push(reader.line().decode("raw-unicode-escape")),
        "\x8c": lambda reader: reader.push(reader.take_sized(1).decode("utf-8", "surrogatepass")),
        "X": lambda reader: reader.push(reader.take_sized(4).decode("utf-8", "surrogatepass")),
        "\x8d": lambda reader: reader.push(reader.take_sized(8).decode("utf-8", "surrogatepass")),
        "C": lambda reader: reader.push(reader.take_sized(1)),
        "B": lambda reader: reader.push(reader.take_sized(4)),
        "\x8e": lambda reader: reader.push(reader.take_sized(8)),
        "\x96": lambda reader: reader.push(reader.take_sized(8)),
        "]": lambda reader: reader.push([]),
        "l": lambda reader: reader.push(reader.group()),
        "a": lambda reader: _append(reader, [reader.stack.pop()]),
        "e": lambda reader: _append(reader, reader.group()),
        ")": lambda reader: reader.push(()),
        "t": lambda reader: reader.push(tuple(reader.group())),
        "\x85": lambda reader: _push_tuple(reader, 1),
        "\x86": lambda reader: _push_tuple(reader, 2),
        "\x87": lambda reader: _push_tuple(reader, 3),
        "}": lambda reader: reader.push({}),
        "d": lambda reader: reader.push(_dictionary(reader.group())),
        "s": lambda reader: reader.set_items([reader.stack.pop(), reader.stack.pop()][::-1]),
        "u": lambda reader: reader.set_items(reader.group()),
        "\x8f": lambda reader: reader.push(set()),
        "\x90": lambda reader: _add_to_set(reader, reader.group()),
        "\x91": lambda reader: reader.push(frozenset(map(_scalar_key, reader.group()))),
        "p": lambda reader: _memorize(reader, _integer(reader.line())),
        "q": lambda reader: _memorize(reader, reader.take(1)[0]),
        "r": lambda reader: _memorize(reader, reader.number(4)),
        "\x94": lambda reader: _memorize(reader, len(reader.memo)),
        "g": lambda reader: _recall(reader, _integer(reader.line())),
        "h": lambda reader: _recall(reader, reader.take(1)[0]),
        "j": lambda reader: _recall(reader, reader.number(4)),
        "c": lambda reader: reader.name(reader.line().decode(), reader.line().decode()),
        "i": lambda reader: reader.name(reader.line().decode(), reader.line().decode()),
        "\x93": lambda reader: reader.name(*[reader.stack.pop(), reader.stack.pop()][::-1]),
        "R": lambda reader: reader.call(),
        "b": lambda reader: reader.build(),
    }.items()
}
_REFUSED = {
    **dict.fromkeys(b"PQ", "it asks for a persistent object"),
    **dict.fromkeys(b"\x82\x83\x84", "it asks for an extension"),
    **dict.fromkeys(b"o\x81\x92", "it makes an object of a class"),
    **dict.fromkeys(b"\x97\x98", "it keeps data in another file"),
}


def _append(reader: _Reader, values: list[Any]) -> None:
    reader.top(list).extend(values)


def _add_to_set(reader: _Reader, values: list[Any]) -> None:
    reader.top(set).update(map(_scalar_key, values))


class _DType:
    """Stands for a dtype, of which it takes the letter, size and byte order and nothing else."""

    def __init__(self, name: str, align: object = False, copy: object = True) -> None:
        if not _DTYPE.fullmatch(name):
            raise ValueError(f"it has an array of dtype {shown(name)}")
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
        raise ValueError(f"it has {len(content)} bytes for an array {shown(shape)} of {kind.dtype}")
    return np.ndarray(shape, kind.dtype, content, order=order)


def _scalar(kind: _DType, data: Any) -> Any:
    return _from_bytes(data, kind, (), "C")[()]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes a string as {shown(encoding)}")  # some codecs import modules
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _set(members: Iterable[Any] = ()) -> set[Any]:
    return set(map(_scalar_key, members))


def _frozenset(members: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(map(_scalar_key, members))


def _not_callable(*_: object) -> Any:
    raise ValueError("numpy.ndarray is not callable here")


_ADMITTED: dict[tuple[Any, Any], Callable[..., Any]] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _not_callable,  # only ever an argument of _reconstruct
    ("_codecs", "encode"): _encode,
}
for _numpy in ("numpy.core", "numpy._core"):
    _ADMITTED |= {
        (f"{_numpy}.multiarray", "_reconstruct"): _array,
        (f"{_numpy}.multiarray", "scalar"): _scalar,
        (f"{_numpy}.numeric", "_frombuffer"): _from_bytes,
    }
for _builtins in ("builtins", "__builtin__"):
    _ADMITTED |= {
        (_builtins, "set"): _set,
        (_builtins, "frozenset"): _frozenset,
        (_builtins, "bytes"): _no_bytes,  # how protocols before 3 write b""
    }
