"""Files are opened only where they are files, and what a message quotes stays short whatever it is."""

import os
import socket

import pytest

from t2ilayers._files import open_regular, read_regular, shown


def pipe(path):
    os.mkfifo(path)


def listening_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # a socket's path is short, so the test works in its folder


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (pipe, "got a pipe"),
        (listening_socket, "got a socket"),
        (os.mkdir, "got a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "got a device"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_is_no_file_is_refused_at_once_by_name(tmp_path, monkeypatch, make, says):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x")
    for read in (open_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(OSError, match=says) as caught:
            read(tmp_path / "x")
        assert caught.value.filename == str(tmp_path / "x")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 5000])
def test_names_that_no_file_can_have(name):
    with pytest.raises(OSError, match="name"):
        open_regular(name)


def test_a_file_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", 10) == b"0123456789"
    with pytest.raises(ValueError, match=r"a must have at most 9 bytes, got 10"):
        read_regular(path, 9)


def doubling(kind):
    value = kind(["a"])
    for _ in range(60):
        value = kind([value, value])
    return value


class Stubborn:
    def __repr__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "value", [doubling(list), doubling(tuple), "x" * 10**7, b"x" * 10**7, 10**5000, {n: {} for n in range(9999)},
              Stubborn(), "'\n" * 999],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_quoted_value_is_short_and_quick_whatever_it_is(value):
    assert 0 < len(shown(value)) <= 80
    assert len(shown(value, 30)) <= 30
