"""Vocabulary: the family's rule for words, and errors that say what to do."""

import json
import warnings

import numpy as np
import pytest
import torch

from t2ilayers.vocabulary import EmptyCaptionError, UnknownWordError, Vocabulary, tokenize

BIRDS = ["a red bird", "this bird has a short bill", "the bird\ufffd\ufffds crown is blue"]


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.build(BIRDS)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("The Bird's beak.", ["the", "bird", "s", "beak"]),
        ("bird\ufffd\ufffds", ["bird", "s"]),
        ("bird\ufffds", ["bird", "s"]),
        ("caf\u00e9 \u9ce5 x_1", ["caf", "x_1"]),
        (" \t\n", []),
        ("!?\u2026", []),
    ],
)
def test_words_are_those_of_the_family(caption, words):
    assert tokenize(caption) == words


def test_build_is_sorted_after_the_end_and_does_not_depend_on_order():
    forward, backward = Vocabulary.build(BIRDS), Vocabulary.build(reversed(BIRDS))
    assert forward == backward
    assert forward.words[0] == "<end>"
    assert list(forward.words[1:]) == sorted(forward.words[1:])
    assert "bird" in forward
    assert "birds" not in forward
    assert Vocabulary.build(BIRDS, min_count=2).words == ("<end>", "a", "bird")


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ([], ValueError, "word 0 is '<end>'"),
        (["a", "<end>"], ValueError, "word 0 is '<end>'"),
        (["<end>", "a", "b", "a"], ValueError, "'a'"),
        (["<end>", ""], ValueError, "index 1"),
        (["<end>", 3], TypeError, "int at index 1"),
        ("<end>", TypeError, "one string"),
    ],
)
def test_wrong_words_are_refused(words, error, says):
    with pytest.raises(error, match=says):
        Vocabulary(words)


def test_nothing_to_build_from():
    with pytest.raises(EmptyCaptionError, match="at least one word"):
        Vocabulary.build(["", "!"])
    with pytest.raises(ValueError, match="min_count"):
        Vocabulary.build(BIRDS, min_count=0)


def test_a_long_caption_is_cut_at_the_front_or_at_random_in_order():
    words = [f"w{n:02d}" for n in range(40)]
    caption = " ".join(words)
    vocabulary = Vocabulary(["<end>", *words])
    assert vocabulary.encode(caption) == list(range(1, 19))

    drawn = [tuple(vocabulary.encode(caption, rng=np.random.default_rng(seed))) for seed in range(50)]
    assert all(len(ids) == 18 and list(ids) == sorted(set(ids)) for ids in drawn)
    assert len(set(drawn)) == 50
    assert {index for ids in drawn for index in ids} == set(range(1, 41))
    assert drawn[3] == tuple(vocabulary.encode(caption, rng=np.random.default_rng(3)))
    # A caption that fits is left alone and uses no randomness.
    rng = np.random.default_rng(0)
    assert vocabulary.encode("w01 w00", rng=rng) == [2, 1]
    assert rng.random() == np.random.default_rng(0).random()


def test_unknown_words_are_named_with_words_near_them(vocabulary):
    with pytest.raises(UnknownWordError, match=r"'birdd' \(near: 'bird'\), 'qqq';"):
        vocabulary.encode("a qqq birdd")
    with pytest.raises(UnknownWordError, match="'crow'"):
        vocabulary["crow"]
    with pytest.raises(ValueError, match="unknown is"):
        vocabulary.encode("a bird", unknown="ignore")
    with pytest.raises(ValueError, match="max_words"):
        vocabulary.encode("a bird", max_words=0)


def test_unknown_words_are_dropped_with_one_warning(vocabulary):
    with pytest.warns(UserWarning, match="'qqq', 'zzz'") as caught:
        tokens, lengths = vocabulary.encode_batch(["a zzz bird", "qqq red"], unknown="drop")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [vocabulary.decode(row) for row in tokens.tolist()] == ["a bird", "red"]
    assert lengths.tolist() == [2, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(EmptyCaptionError, match="known word"):
            vocabulary.encode("zzz", unknown="drop")


@pytest.mark.parametrize("caption", ["", "...", "\u9ce5"])
def test_a_caption_without_a_word_is_an_error(vocabulary, caption):
    with pytest.raises(EmptyCaptionError, match="at least one word"):
        vocabulary.encode_batch(["a bird", caption])


def test_a_batch_is_padded_with_end(vocabulary):
    tokens, lengths = vocabulary.encode_batch(["a bird", "this bird has a red crown"])
    assert tokens.shape == (2, 6)
    assert tokens.dtype == lengths.dtype == torch.int64
    assert lengths.tolist() == [2, 6]
    assert tokens[0, 2:].eq(0).all()
    assert vocabulary.decode(tokens[1].tolist()) == "this bird has a red crown"
    with pytest.raises(ValueError, match="at least one caption"):
        vocabulary.encode_batch([])
    with pytest.raises(TypeError, match="one string"):
        vocabulary.encode_batch("a bird")


def test_decode_stops_at_the_end_and_knows_its_range(vocabulary):
    assert vocabulary.decode([1, 0, 1]) == vocabulary.words[1]
    for index in (-1, len(vocabulary)):
        with pytest.raises(ValueError, match="an index lies in"):
            vocabulary.decode([index])


def test_save_and_load_round_trip_and_leave_nothing_else(vocabulary, tmp_path):
    path = tmp_path / "vocabulary.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert [entry.name for entry in tmp_path.iterdir()] == ["vocabulary.json"]
    # A target that cannot be replaced stays, and no temporary file is left.
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(OSError, match="folder"):
        vocabulary.save(tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "vocabulary.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'["a"]', b'["<end>", "a", "a"]', b'["<end>", 3]', b'["<end>", "\xff"]', b"[" * 200_000],
)
def test_load_names_the_file_that_is_wrong(content, tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.json is not a vocabulary"):
        Vocabulary.load(path)


def test_the_file_is_a_plain_list(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text()) == list(vocabulary)
