"""Vocabulary: the family's rule for words, and errors that say what to do."""

import json
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ilayers.vocabulary import EmptyCaptionError, UnknownWordError, Vocabulary
from t2ilayers.words import tokenize

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
        (" \t\n", []),
        ("!?\u2026", []),
    ],
)
def test_ascii_words_are_those_of_the_family_by_either_rule(caption, words):
    assert tokenize(caption) == tokenize(caption, "ascii") == words


# By the rules "words", "characters" and "ascii".
SCRIPTS = [
    ("Großer Bär", ["großer", "bär"], list("großerbär"), ["groer", "br"]),
    ("caf\u00e9 cafe\u0301", ["caf\u00e9"] * 2, list("caf\u00e9") * 2, ["caf"] * 2),
    ("赤い鳥、1羽", ["赤い鳥", "1羽"], list("赤い鳥1羽"), ["1"]),
    ("красная птица", ["красная", "птица"], list("краснаяптица"), []),
    # Vowel signs and the virama are marks, which \\w does not match.
    ("हिन्दी पक्षी", ["हिन्दी", "पक्षी"], ["हि", "न्", "दी", "प", "क्", "षी"], []),
    ("طائِر أحمر", ["طائِر", "أحمر"], ["ط", "ا", "ئِ", "ر", "أ", "ح", "م", "ر"], []),
    ("می\u200cخواهم", ["می\u200cخواهم"], ["م", "ی", "خ", "و", "ا", "ه", "م"], []),
    ("นกสีแดง", ["นกสีแดง"], ["น", "ก", "สี", "แ", "ด", "ง"], []),
    ("a 🦊❤\ufe0f, 45° x_1", ["a", "🦊", "❤", "45", "x_1"], list("a🦊❤45x_1"), ["a", "45", "x_1"]),
    ("\u0301 \ufffd\ufffdso\u00adft", ["soft"], list("soft"), ["so", "ft"]),
]


@pytest.mark.parametrize(("caption", "words", "characters", "ascii_words"), SCRIPTS)
def test_letters_of_every_script_count(caption, words, characters, ascii_words):
    assert tokenize(caption) == words
    assert tokenize(caption, "characters") == characters
    assert tokenize(caption, "ascii") == ascii_words
    assert tokenize(unicodedata.normalize("NFD", caption)) == words


@given(st.text(max_size=60))
def test_words_do_not_depend_on_how_a_caption_is_composed(caption):
    for rule in ("words", "characters", "ascii"):
        found = tokenize(caption, rule)
        assert tokenize(unicodedata.normalize("NFC", caption), rule) == found
        assert tokenize(unicodedata.normalize("NFD", caption), rule) == found
        assert all(found)
        # A caption made of the words alone has the same words, so that what a vocabulary decodes can be encoded.
        if rule == "words":
            assert tokenize(" ".join(found)) == found


# Of two classes in turn, of one, and of none: marks to be put in order, to be counted, and to be held together.
@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0301", "\u093e"])
@pytest.mark.parametrize("rule", ["words", "characters", "ascii"])
def test_a_letter_with_any_number_of_marks_costs_what_as_many_characters_do(rule, marks):
    many, few = (tokenize("a" + marks * (number // len(marks)), rule) for number in (300_000, 30))
    if unicodedata.combining(marks[0]):
        assert many == few
    else:
        assert [word[:20] for word in many] == [word[:20] for word in few]


@given(st.text(max_size=60))
def test_a_letter_that_the_ascii_rule_takes_is_never_lost_silently(caption):
    vocabulary = Vocabulary(["<end>", *dict.fromkeys(tokenize(caption, "ascii"))], tokenizer="ascii")
    if vocabulary.lost(caption):
        with pytest.raises(UnknownWordError, match="would lose letters"):
            vocabulary.encode(caption, max_words=99)
    else:
        assert tokenize(caption, "ascii") == tokenize(caption)
        if len(vocabulary) > 1:
            assert vocabulary.decode(vocabulary.encode(caption, max_words=99)).split() == tokenize(caption)


def test_training_may_lose_letters_and_dropping_says_which():
    vocabulary = Vocabulary(["<end>", "a", "bird"], tokenizer="ascii")
    assert vocabulary.encode("a 青い bird", rng=np.random.default_rng(0)) == [1, 2]
    with pytest.warns(UserWarning, match="'青い'"):
        assert vocabulary.encode("a 青い bird", unknown="drop") == [1, 2]
    with pytest.warns(UserWarning, match="'crow' and letters of '青い'"):
        assert vocabulary.encode("a 青い crow", unknown="drop") == [1]


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
        ([], ValueError, "word 0 must be '<end>'"),
        (["a", "<end>"], ValueError, "word 0 must be '<end>'"),
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
    with pytest.warns(UserWarning, match="1 caption has more than 18 words; left out: 'w18 w19 .* w39'") as caught:
        assert vocabulary.encode(caption) == list(range(1, 19))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"5 captions have more than 2 words; left out: 'w02'(, 'w02'){4}$"):
        vocabulary.encode_batch(["w00 w01 w02"] * 5, max_words=2)

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
    with pytest.raises(ValueError, match="unknown must be"):
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


@pytest.mark.parametrize("caption", ["", "...", "\u2026 °"])
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
        with pytest.raises(ValueError, match="an index must lie in"):
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


@pytest.mark.parametrize("rule", ["words", "characters", "ascii"])
def test_the_file_keeps_the_rule(rule, tmp_path):
    vocabulary = Vocabulary.build(["a blåbär"], tokenizer=rule)
    vocabulary.save(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == {
        "tokenizer": rule,
        "words": list(vocabulary),
    }
    again = Vocabulary.load(tmp_path / "v.json")
    assert (again, again.tokenizer) == (vocabulary, rule)
    assert again.tokenize("å b") == vocabulary.tokenize("å b")


def test_a_plain_list_as_written_before_has_the_familys_rule(tmp_path):
    (tmp_path / "v.json").write_text('["<end>", "bird", "caf"]')
    vocabulary = Vocabulary.load(tmp_path / "v.json")
    assert vocabulary.tokenize("Café bird") == ["caf", "bird"]
    with pytest.raises(UnknownWordError, match="'café', which would lose letters"):
        vocabulary.encode("Café bird")


def in_halves(caption):
    return [caption[: len(caption) // 2], caption[len(caption) // 2 :]]


def test_a_tokenizer_of_ones_own_is_given_again(tmp_path):
    vocabulary = Vocabulary.build(["redbird", "redfish"], tokenizer=in_halves)
    assert vocabulary.words == ("<end>", "bird", "fish", "red")
    vocabulary.save(tmp_path / "v.json")
    again = Vocabulary.load(tmp_path / "v.json")
    with pytest.raises(ValueError, match=r"set vocabulary\.tokenizer"):
        again.encode("redbird")
    again.tokenizer = in_halves
    for loaded in (again, Vocabulary.load(tmp_path / "v.json", tokenizer=in_halves)):
        assert loaded == vocabulary
        assert loaded.encode("redfish") == [3, 2]
    Vocabulary(["<end>", "a"]).save(tmp_path / "v.json")
    with pytest.raises(ValueError, match="its tokenizer is 'words', so none must be given"):
        Vocabulary.load(tmp_path / "v.json", tokenizer=in_halves)


@pytest.mark.parametrize("words", [[""], ["<end>"], [3]])
def test_a_tokenizer_must_give_words(words):
    with pytest.raises(TypeError, match="a tokenizer must give words"):
        Vocabulary.build(["x"], tokenizer=lambda caption: words)
    with pytest.raises(ValueError, match="tokenizer must be one of"):
        Vocabulary(["<end>"], tokenizer="bytes")


@pytest.mark.parametrize("captions", [np.array(["a red bird", "bird"]), ("a red bird", "bird")])
def test_captions_may_be_any_sequence(vocabulary, captions):
    assert vocabulary.encode_batch(captions)[1].tolist() == [3, 1]


@pytest.mark.parametrize("missing", [float("nan"), None, 3, b"bird", ["bird"]])
def test_what_is_no_caption_is_said(vocabulary, missing):
    with pytest.raises(TypeError, match="a caption must be a string, got"):
        vocabulary.encode_batch(["a bird", missing])
    with pytest.raises(TypeError, match="a caption must be a string, got"):
        Vocabulary.build(["a bird", missing])


LONG = "x" * 10**6


@pytest.mark.parametrize(
    "wrong",
    [
        lambda vocabulary: vocabulary.encode(LONG),
        lambda vocabulary: vocabulary[LONG],
        lambda vocabulary: vocabulary.encode_batch([f"birdd{n} {LONG}{n}" for n in range(9)]),
        lambda vocabulary: vocabulary.encode("!" * 10**6),
        lambda vocabulary: Vocabulary(["<end>", LONG, LONG]),
        lambda vocabulary: Vocabulary([LONG]),
        lambda vocabulary: Vocabulary(["<end>", "a"], tokenizer="ascii").encode("é" * 10**6),
        lambda vocabulary: Vocabulary(["<end>"], tokenizer=LONG),
    ],
)
def test_messages_stay_short(vocabulary, wrong):
    with pytest.raises(ValueError, match=r"\.\.\.") as caught:
        wrong(vocabulary)
    assert len(str(caught.value)) < 2000
