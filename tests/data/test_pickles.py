"""Pickles from strangers: plain data comes through unchanged, everything else is refused and nothing runs."""

import os
import pickle
import re
import struct

import numpy as np
import pytest

from t2ilayers.data.readers import pickles

PLAIN = [None, True, -3, 2**70, 1.5, "crêpe", b"", b"\xff\0", (1, [2, {"a": (3,)}]), {1, 2}, frozenset("ab"), {}]
ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([1, 256], ">i4"),
    np.array([], np.float32),
    np.array([True, False]),
    np.array(["a", "crow"]),
    np.array([b"a", b"bc"]),
    np.array(5, np.uint8),
    np.int64(-7),
    np.float32(0.25),
]


def refused(path, data) -> str:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        pickles.load(path)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "captions.pickle"


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_through(path, protocol):
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    assert pickles.load(path) == PLAIN


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_through_by_either_name_of_numpys_module(path, protocol):
    data = pickle.dumps(ARRAYS, protocol)
    contents = [data]
    if protocol < 4:  # later ones give the length of a name before it
        contents.append(data.replace(b"numpy._core", b"numpy.core"))
    for content in contents:
        path.write_bytes(content)
        for found, expected in zip(pickles.load(path), pickle.loads(data), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


def test_what_python_2_wrote(path):
    path.write_bytes(b"(lp0\nS'001.Tit/caf\\xe9'\np1\naI3\naL4L\na.")
    assert pickles.load(path) == ["001.Tit/caf\xe9", 3, 4]
    # numpy.array([1, 513], "<i4") under protocol 2: its bytes are a string there.
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x08\x01\x00\x00\x00\x01\x02\x00\x00tb."
    )
    array = pickles.load(path)
    assert array.tolist() == [1, 513]
    assert array.dtype == np.int32


class Call:
    """Pickles into a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_nothing_runs(path, tmp_path, protocol):
    target = tmp_path / "created"
    for hostile in (
        Call(open, str(target), "w"),
        Call(os.mkdir, str(target)),
        Call(eval, f"open({str(target)!r}, 'w')"),
    ):
        content = [["a caption"], {"deep": (hostile,)}]
        says = refused(path, pickle.dumps(content, protocol))
        assert re.search(r"asks for \w+\.(open|mkdir|eval), which was not run", says)
        assert not target.exists()


# Opcodes by hand: c asks for a name, ( starts and t ends a tuple, R calls, b sets state, . ends.
DTYPE_O = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"
DTYPE_I = b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "posix.system"),
        (b"(S'true'\niposix\nsystem\n.", "posix.system"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", "numpy.ndarray.dumps"),
        (b"c_codecs\nencode\n(S'a'\nS'zlib'\ntR.", "'zlib'"),
        (b"c__builtin__\nbytes\n(I99999999999\ntR.", "positional argument"),
        (b"cnumpy\nndarray\n(I99999999\ntR.", "not callable"),
        (DTYPE_O + b".", "dtype 'O8'"),
        (b"cnumpy\ndtype\n(S'i8,O'\ntR.", "dtype 'i8,O'"),
        (b"cnumpy.core.multiarray\nscalar\n(" + DTYPE_I + b"S'abc'\ntR.", "3 bytes for an array ()"),
        (ARRAY + b"(I1\n(I99999999\nt" + DTYPE_I + b"I00\nS'12345678'\ntb.", "8 bytes for an array (99999999,)"),
        (ARRAY + b"(I1\n(I-1\nt" + DTYPE_I + b"I00\nS''\ntb.", "0 bytes for an array (-1,)"),
        # State of a function, as a pair of its dictionary and its attributes.
        (b"c_codecs\nencode\n(N(dS'_function'\nI1\nstb.", "it sets the state of _codecs.encode"),
        (b"c_codecs\nencode\n(dS'__doc__'\nI1\nsb.", "it sets the state of _codecs.encode"),
        (b"Phello\n.", "persistent"),
        (b"\x82\x01.", "extension"),
        (b"", "it ends early"),
        (b"PK\x03\x04 a zip file", "is no pickle of plain data"),
    ],
)
def test_nothing_else_is_admitted(path, data, says):
    assert says in refused(path, data)


def test_a_forged_dtype_stays_what_its_letter_says(path):
    # The state claims fields, which would make numpy read the bytes as pointers to objects.
    state = b"(I3\nS'|'\nN(S'f'\nt(dS'f'\n(" + DTYPE_I + b"I0\ntsI8\nI1\nI0\ntb"
    path.write_bytes(ARRAY + b"(I1\n(I1\nt" + DTYPE_I + state + b"I00\nS'AAAAAAAA'\ntb.")
    array = pickles.load(path)
    assert array.dtype == np.int64
    assert array.tolist() == list(struct.unpack("<q", b"AAAAAAAA"))


def test_arrays_of_objects_are_refused(path):
    assert "dtype 'O8'" in refused(path, pickle.dumps(np.array(["a", None], object)))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_file_cut_anywhere_is_refused(path, protocol):
    data = pickle.dumps([PLAIN, ARRAYS[0]], protocol)
    for length in range(0, len(data), 7):
        assert "is no pickle of plain data" in refused(path, data[:length])


def test_a_file_too_large_is_not_read(path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_BYTES", 1000)
    data = pickle.dumps("a" * 980)
    path.write_bytes(data)
    assert pickles.load(path) == "a" * 980
    assert "must have at most 1000 bytes, got 1020" in refused(path, data.ljust(1020, b"."))


def test_no_file(tmp_path):
    for name, error in (("missing", FileNotFoundError), (".", IsADirectoryError)):
        with pytest.raises(error, match=re.escape(str(tmp_path / name))):
            pickles.load(tmp_path / name)
