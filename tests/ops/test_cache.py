"""The folder of compiled libraries: one maker, whole files, and nobody else's hand in it."""

import os
import stat
import threading

import pytest

from t2ilayers.ops import _cache

STRANGER = 12345  # no user of that number is logged in


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    return tmp_path / "home" / "cache" / "t2ilayers"


def fail(folder):
    raise AssertionError("made although it is there")


def test_what_is_made_is_found_whole_and_private(cache):
    assert _cache.find("name") is None
    path = _cache.make("name", lambda folder: b"library")
    assert path.parent == cache
    assert path.read_bytes() == b"library"
    assert _cache.make("name", fail) == _cache.find("name") == _cache.find("na*") == path
    assert _cache.find("other") is None
    assert [stat.S_IMODE(p.stat().st_mode) for p in (cache, *cache.parents[:2])] == [0o700] * 3
    assert {p.suffix for p in cache.iterdir()} == {".so", ".lock"}  # no rubbish


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_what_is_made_is_found_whatever_the_mask_of_new_files(cache, mask):
    before = os.umask(mask)
    try:
        path = _cache.make("name", lambda folder: b"library")
    finally:
        os.umask(before)
    assert _cache.find("name") == path


def test_of_many_that_want_a_library_at_once_one_makes_it(cache):
    makers, found, barrier = [], [], threading.Barrier(5)

    def work(folder):
        makers.append(folder)
        (folder / "object.o").touch()
        return b"library"

    def want():
        barrier.wait()
        found.append(_cache.make("name", work))

    threads = [threading.Thread(target=want) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makers) == 1
    assert found == [_cache.find("name")] * 5


def test_a_maker_that_fails_leaves_nothing_in_the_way(cache):
    def work(folder):
        (folder / "object.o").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        _cache.make("name", work)
    assert [p.suffix for p in cache.iterdir()] == [".lock"]
    assert _cache.make("name", lambda folder: b"library") == _cache.find("name")


def damage(path, how):
    content = path.read_bytes()
    path.unlink()
    if how == "empty":
        path.touch()
    elif how == "truncated":
        path.write_bytes(content[:-1])
    elif how == "a flipped bit":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "another library":
        path.write_bytes(b"another")
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "a link to nothing":
        path.symlink_to("nothing")
    elif how == "a link to a whole one":
        other = path.parent.with_name(path.name)
        other.write_bytes(content)
        path.symlink_to(other)


@pytest.mark.parametrize(
    "how",
    [
        *("empty", "truncated", "a flipped bit", "another library", "a pipe", "a link to nothing"),
        "a link to a whole one",
    ],
)
def test_a_damaged_library_is_made_anew(cache, how):
    path = _cache.make("name", lambda folder: b"library")
    damage(path, how)
    assert _cache.find("name") is None
    assert _cache.make("name", lambda folder: b"library") == _cache.find("name") == path
    assert not path.is_symlink()
    assert path.read_bytes() == b"library"


def test_a_whole_library_is_found_beside_a_damaged_one(cache):
    path = _cache.make("name", lambda folder: b"library")
    path.with_name(f"name-{'0' * 16}.so").write_bytes(b"cut off")
    assert _cache.find("name") == path


# Each gives others a way to put a library of theirs where this user's is looked for.
WAYS = {
    "all may write the folder": lambda cache: cache.chmod(0o777),
    "all may write the folder, which is sticky": lambda cache: cache.chmod(0o1777),
    "a group may write the folder": lambda cache: own(cache, -1, STRANGER).chmod(0o770),
    "all may write the library": lambda cache: library(cache).chmod(0o646),
    "a group may write the library": lambda cache: (
        own(library(cache), -1, STRANGER),
        library(cache).chmod(0o664),
    ),
    "all may write the folder above": lambda cache: cache.parent.chmod(0o777),
    "all may write the second folder above": lambda cache: cache.parents[1].chmod(0o707),
    "the folder belongs to another": lambda cache: own(cache, STRANGER),
    "the folder above belongs to another": lambda cache: own(cache.parent, STRANGER),
    "the library belongs to another": lambda cache: own(library(cache), STRANGER),
    "the folder is a link to another's": lambda cache: own(link(cache), STRANGER),
    "the folder above is a link to where all may write": lambda cache: link(cache.parent).chmod(0o777),
    "links through where all may write": lambda cache: link(link(cache).parent).chmod(0o777),
}


def library(cache):
    return next(cache.glob("*.so"))


def own(path, user, group=-1):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, user, group)
    return path


def link(path):
    """Moves what is at a path into a folder of its own, leaves a link, and returns where it is now."""
    place = path.with_name(f"{path.name}.d") / path.name
    place.parent.mkdir(mode=0o700)
    path.rename(place)
    path.symlink_to(place)
    return place


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_loaded_from_where_others_can_write(cache, way):
    _cache.make("name", lambda folder: b"library")
    WAYS[way](cache)
    refusal = r"^/.* (belongs to another user \(12345\)|can be written by others), and .*; set XDG_CACHE_HOME to"
    with pytest.raises(RuntimeError, match=refusal):
        _cache.find("name")
    with pytest.raises(RuntimeError, match=refusal):
        _cache.make("name", fail)


# And these are how people lay their folders.
@pytest.mark.parametrize("way", ["a link to a folder of one's own", "a sticky folder above", "read by others"])
def test_what_only_this_user_can_change_is_loaded(cache, way):
    path = _cache.make("name", lambda folder: b"library")
    if way == "a link to a folder of one's own":
        link(cache.parent)
    elif way == "a sticky folder above":
        cache.parent.chmod(0o1777)
    else:
        cache.chmod(0o755)
    assert _cache.find("name") == _cache.make("name", fail) == path


def test_a_circle_of_links_ends_in_a_sentence(cache):
    cache.parent.mkdir(parents=True)
    cache.symlink_to(cache)
    with pytest.raises(RuntimeError, match=r"cannot be used \(.*\); set XDG_CACHE_HOME"):
        _cache.make("name", fail)


@pytest.mark.parametrize("relative", ["", "cache", "./cache", "../cache", " "])
def test_only_an_absolute_cache_folder_counts(tmp_path, monkeypatch, relative):
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert _cache.folder() == tmp_path / ".cache" / "t2ilayers"


@pytest.mark.parametrize("how", ["too long", "a file", "below a file"])
def test_a_cache_that_cannot_be_used_is_named(tmp_path, monkeypatch, how):
    (tmp_path / "file").touch()
    place = {
        "too long": tmp_path / ("x" * 300),
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "a",
    }
    monkeypatch.setenv("XDG_CACHE_HOME", str(place[how]))
    with pytest.raises(RuntimeError, match=r"^the folder .*t2ilayers cannot be used \(.*\); set XDG_CACHE_HOME"):
        _cache.make("name", fail)


def test_a_lock_is_neither_followed_nor_emptied(cache, tmp_path):
    path = _cache.make("name", lambda folder: b"library")
    path.unlink()
    lock, target = cache / "name.lock", tmp_path / "precious"
    lock.write_text("kept")
    assert _cache.make("name", lambda folder: b"library") == path
    assert lock.read_text() == "kept"
    path.unlink()
    lock.unlink()
    target.write_text("precious")
    lock.symlink_to(target)
    with pytest.raises(RuntimeError, match="cannot be used"):
        _cache.make("name", fail)
    assert target.read_text() == "precious"
