"""benchmarks/text_data.py: reading and numbering text; windows of it."""

import numpy as np
import pytest
from tiny_runs import write


def test_documentation_is_real_text_without_repetitions(text_data):
    text = text_data.python_documentation()
    paragraphs = text.split("\n\n")
    assert len(text) > 200000
    assert len(set(paragraphs)) == len(paragraphs)
    assert "assignment" in text.lower()


def test_splits_a_file_in_order(text_data, tmp_path):
    words = [f"w{i % 10}" for i in range(200)]
    path = write(tmp_path / "file", " ".join(words).encode())
    corpus = text_data.load_corpus(str(path))
    halves = text_data.load_corpus(str(path), test_fraction=0.05)
    assert [len(part) for part in corpus[:3]] == [180, 20, 0]
    assert [len(part) for part in halves[:3]] == [180, 10, 10]
    for each in (corpus, halves):
        ids = np.concatenate(each[:3])
        assert [each.vocabulary[i] for i in ids] == words


def test_cuts_prose_into_words_punctuation_and_paragraphs(text_data):
    text = "It isn't so...\nis it?\n\n\n== Yes =="
    assert text_data.tokenise(text, "word", prose=True) == (
        "It isn ' t so ... is it ? <eos> == Yes ==".split()
    )
    assert text_data.tokenise(" a n't <unk>\n b\n", "word", prose=False) == (
        "a n't <unk> <eos> b <eos>".split()
    )
    assert text_data.tokenise("a b\n", "char", prose=True) == list("a b\n")


def test_a_word_seen_once_is_unknown(text_data, tmp_path):
    text = "\ufefflast once " + "and last but " * 30
    corpus = text_data.load_corpus(str(write(tmp_path / "a", text.encode())))
    assert corpus.vocabulary == ["<unk>", "last", "and", "but"]
    assert corpus.train[:4].tolist() == [1, 0, 2, 1]


def test_words_are_joined_as_they_are_written(text_data):
    words = "Well , no ( yes ) ! <eos> So".split()
    assert text_data.to_text(words, "word") == "Well, no ( yes)! \n\n So"
    assert text_data.to_text(list("a b"), "char") == "a b"


def test_vocabulary_comes_from_the_training_part(text_data):
    parts = ["b b a a a c".split(), "d a".split(), ["c"]]
    corpus = text_data.number_tokens(parts, min_count=2)
    assert corpus.vocabulary == ["<unk>", "a", "b"]
    assert [part.tolist() for part in corpus[:3]] == [
        [2, 2, 1, 1, 1, 0],
        [0, 1],
        [0],
    ]
    # Of a folder every word is kept, and its own <unk> is that.
    whole = text_data.number_tokens([["b", "<unk>", "a"], ["x"], []])
    assert whole.vocabulary == ["<unk>", "a", "b"]
    assert whole.train.tolist() == [2, 0, 1]


@pytest.mark.parametrize("names", ["ptb.{}.txt", "wiki.{}.tokens"])
def test_reads_the_files_by_the_names_they_come_with(
    names, text_data, tmp_path
):
    for part in text_data.PARTS:
        write(tmp_path / names.format(part), f"{part} {part}\n".encode())
    corpus = text_data.load_corpus(str(tmp_path))
    assert corpus.vocabulary == ["<unk>", "train", "<eos>"]
    assert [part.tolist() for part in corpus[:3]] == [
        [1, 1, 2],
        [0, 0, 2],
        [0, 0, 2],
    ]


def test_refuses_a_text_without_validation(text_data):
    corpus = text_data.Corpus(np.arange(100), np.arange(1), np.arange(0), ["a"])
    with pytest.raises(text_data.DataError, match="valid part needs 2 .*got 1"):
        text_data.check_length(corpus, batch_size=2, steps=3)


def test_windows_go_on_where_the_last_stopped(text_data):
    starts = set()
    for seed in range(9):
        first, second, *_ = text_data.training_windows(
            np.arange(25), 2, 3, np.random.RandomState(seed)
        )
        start = first[1][0, 0]
        starts.add(start)
        assert first[0] == start / 12
        assert second[0] == (start + 3) / 12
        rows = start + np.arange(6) + [[0], [12]]
        np.testing.assert_array_equal(first[1], rows[:, :3])
        np.testing.assert_array_equal(first[2], rows[:, :3] + 1)
        np.testing.assert_array_equal(second[1], rows[:, 3:])
        np.testing.assert_array_equal(second[2], rows[:, 3:] + 1)
    assert starts == {0, 1, 2}


def test_windows_of_varying_length_are_those_of_the_paper(text_data):
    ids = np.arange(400001)
    windows = list(
        text_data.training_windows(
            ids, 2, 70, np.random.RandomState(5), varying=True
        )
    )
    lengths = np.array([inputs.shape[1] for _, inputs, _ in windows])
    np.testing.assert_array_equal(
        np.concatenate([inputs[1] for _, inputs, _ in windows]),
        np.arange(200000, 400000),
    )
    short = lengths < 52
    # 1 in 20 around 35: a binomial's standard deviation is below 0.005 here.
    assert abs(short.mean() - 0.05) < 0.02
    assert abs(lengths[short].mean() - 35) < 2
    assert abs(lengths[~short].mean() - 70) < 0.5
    assert abs(lengths[~short].std() - 5) < 0.5


def test_windows_of_varying_length_are_not_too_short(text_data):
    windows = text_data.training_windows(
        np.arange(20001), 2, 10, np.random.RandomState(5), varying=True
    )
    lengths = [inputs.shape[1] for _, inputs, _ in windows]
    assert min(lengths[:-1]) == 5


@pytest.mark.parametrize("varying", [False, True])
def test_a_text_of_one_window_has_one(varying, text_data):
    position, inputs, _ = next(
        text_data.training_windows(
            np.arange(21), 2, 10, np.random.RandomState(0), varying
        )
    )
    assert position == 0.0
    np.testing.assert_array_equal(inputs[:, 0], [0, 10])


@pytest.mark.parametrize("length", [2, 10, 11, 12, 57])
def test_held_out_windows_miss_no_token(text_data, length):
    ids = np.random.randint(5, 100, length)
    inputs, targets = (
        np.concatenate(parts, 1).reshape([-1])
        for parts in zip(*text_data.held_out_windows(ids, 4, 3))
    )
    counts = targets >= 0
    np.testing.assert_array_equal(inputs[counts], ids[:-1])
    np.testing.assert_array_equal(targets[counts], ids[1:])
