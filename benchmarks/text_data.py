"""Text for `train.py`: read it, cut it into tokens, number them.

Three sources, all giving the same `Corpus`:

    None               the documentation topics of this Python (pydoc_data)
    a text file        the first 90% to train on, the rest held out
    a folder           its train.txt, valid.txt and test.txt (PTB, WikiText)
"""

import collections
import os
import re

import numpy as np

UNKNOWN_ID = 0
UNKNOWN = "<unk>"  # stands for every token that is not in the vocabulary
END = "<eos>"  # ends a paragraph of prose, or a line of a PTB file
PARTS = ("train", "valid", "test")

# Prose: a blank line, a word, or a run of one punctuation mark ("...", "==").
PROSE_TOKEN = re.compile(r"\n\s*\n|\w+|([^\w\s])\1*")


class DataError(ValueError):
    """The text cannot be used; the message says why and what to do."""


class Corpus(collections.namedtuple("Corpus", PARTS + ("vocabulary",))):
    """Token ids of the three parts (1-D int32 arrays) and the vocabulary.

    `vocabulary` is the list of tokens, so `vocabulary[i]` is what id `i` says.
    """


def load_corpus(path=None, level="word", test_fraction=0.0):
    """Reads text and numbers its tokens.

    Args:
      path: A text file, a folder with train.txt, valid.txt and test.txt, or
        None for the documentation that comes with Python.
      level: 'word' or 'char'.
      test_fraction: Share of a single text to keep back as a test part, taken
        from the end of the 10% that is held out. Folders bring their own.

    Returns:
      A `Corpus`.

    Raises:
      DataError: There is no text at `path`.
    """
    if path is not None and os.path.isdir(path):
        texts = read_folder(path)
        return number_tokens(
            [tokenise(text, level, prose=False) for text in texts]
        )
    text = python_documentation() if path is None else read_text(path)
    tokens = tokenise(text, level, prose=True)
    # A word seen once becomes <unk>, so that the model can learn what to
    # expect of the unknown words it will meet in the held-out text.
    return number_tokens(split(tokens, test_fraction), min_count=2)


def python_documentation():
    """The topics of `help()`, about 330 kB of English prose.

    The topics quote one another. Each paragraph is kept once, or the held-out
    text would be partly a copy of the training text. The wording differs a
    little between versions of Python, and so do the perplexities.
    """
    from pydoc_data import topics

    paragraphs = (
        paragraph.strip("\n")
        for topic in sorted(topics.topics)
        for paragraph in topics.topics[topic].split("\n\n")
    )
    return "\n\n".join(collections.OrderedDict.fromkeys(paragraphs))


# What the files of a folder are called: ours, PTB's, WikiText's.
FILE_NAMES = ("{}.txt", "ptb.{}.txt", "wiki.{}.tokens")


def read_folder(path):
    """Texts of the train, valid and test files in `path`."""
    for names in FILE_NAMES:
        files = [os.path.join(path, names.format(part)) for part in PARTS]
        missing = [name for name in files if not os.path.isfile(name)]
        if not missing:
            return [read_text(name) for name in files]
        if len(missing) < len(files):
            break
    else:
        missing = [os.path.join(path, "train.txt")]
    raise DataError(
        "`--data` must be a text file or a folder with train.txt, valid.txt "
        "and test.txt (or ptb.train.txt, ..., or wiki.train.tokens, ...), got "
        f"a folder without {missing[0]}."
    )


def read_text(path):
    """The text of one file; refuses what is missing, empty or binary."""
    if not os.path.exists(path):
        raise DataError(f"`--data` must exist, got {path}.")
    try:
        with open(path, encoding="utf-8-sig") as source:
            text = source.read()
    except UnicodeDecodeError as error:
        raise DataError(
            f"`--data` must be UTF-8 text, got {path} with the "
            f"byte {error.object[error.start]:#04x} in it."
        ) from None
    except OSError as error:
        raise DataError(
            f"`--data` must be readable, got {path}: {error.strerror}."
        ) from None
    if "\0" in text:
        raise DataError(f"`--data` must be text, got {path} with NUL bytes.")
    if not text.strip():
        raise DataError(f"`--data` must hold some text, got {path}, empty.")
    return text


def tokenise(text, level, prose):
    """Cuts a text into a list of tokens.

    Args:
      text: A string.
      level: 'char' for single characters, 'word' for words.
      prose: Words only. True: punctuation is split off and a blank line becomes
        `END`. False: the text is tokenised already, by spaces, as PTB and
        WikiText are, and each line ends with `END`.

    Returns:
      A list of strings.
    """
    if level == "char":
        return list(text)
    if not prose:
        return text.replace("\n", f" {END} ").split()
    tokens = (match.group() for match in PROSE_TOKEN.finditer(text))
    return [END if token.isspace() else token for token in tokens]


def split(tokens, test_fraction):
    """First 90% to train on, then a part to choose by, then a test part."""
    train = int(0.9 * len(tokens))
    valid = int((1.0 - test_fraction) * len(tokens))
    return tokens[:train], tokens[train:valid], tokens[valid:]


def number_tokens(parts, min_count=1):
    """Turns three lists of tokens into a `Corpus`.

    The vocabulary comes from the training part alone, most frequent first.

    Args:
      parts: Lists of tokens to train on, choose by and test on.
      min_count: A token seen fewer times than this counts as `UNKNOWN`.

    Returns:
      A `Corpus`.
    """
    counts = collections.Counter(parts[0])
    counts.pop(UNKNOWN, None)
    # Ties in alphabetical order: the same text gives the same ids every time.
    common = sorted(
        (token for token in counts if counts[token] >= min_count),
        key=lambda token: (-counts[token], token),
    )
    vocabulary = [UNKNOWN] + common
    ids = {token: i for i, token in enumerate(vocabulary)}
    arrays = [
        np.array([ids.get(token, UNKNOWN_ID) for token in part], np.int32)
        for part in parts
    ]
    return Corpus(*arrays, vocabulary=vocabulary)


def to_text(tokens, level):
    """Joins tokens for reading."""
    if level == "char":
        return "".join(tokens)
    text = " ".join(tokens).replace(END, "\n\n")
    return re.sub(r" ([,.;:!?)\]}])", r"\1", text)


def perplexity(loss):
    """exp(mean of -log(probability)); infinite, when it is."""
    with np.errstate(over="ignore"):
        return float(np.exp(loss))


def in_rows(ids, batch_size):
    """Cuts a text into rows, for windows that go on from one to the next.

    Args:
      ids: 1-D array of token ids.
      batch_size: Number of rows.

    Returns:
      Inputs and targets, `[batch_size, length]`; `targets` are the inputs one
      token later. What does not fill a column is left out.
    """
    length = (len(ids) - 1) // batch_size
    return [
        part[: batch_size * length].reshape(batch_size, length)
        for part in (ids[:-1], ids[1:])
    ]


def training_windows(ids, batch_size, steps, random, varying=False):
    """Windows for truncated back-propagation through time, of one epoch.

    Row `i` of a window goes on where row `i` of the window before it stopped.
    The first begins at a random token among the first `steps`, so that each
    epoch has other windows; or, when `varying`, all have random lengths:
    around `steps`, or around half of it once in twenty times, as in section
    4.1 of the paper.

    Args:
      ids: 1-D array of token ids.
      batch_size: Number of rows.
      steps: Length of a window.
      random: A `np.random.RandomState`.
      varying: Whether windows have random lengths. Multiply the learning rate
        by the length over `steps`.

    Yields:
      `(position, inputs, targets)`: the share of the text before this window,
      and arrays `[batch_size, steps]`.
    """
    inputs, targets = in_rows(ids, batch_size)
    length = inputs.shape[1]
    start = 0 if varying else random.randint(min(steps, length - steps + 1))
    while start < length:
        size = steps
        if varying:
            mean = steps if random.uniform() < 0.95 else steps / 2
            size = max(5, int(round(random.normal(mean, 5))))
            size = min(size, length - start)
        elif start + size > length:
            return
        window = slice(start, start + size)
        yield start / length, inputs[:, window], targets[:, window]
        start += size


def held_out_windows(ids, batch_size, steps):
    """Windows over all of a text, to evaluate on.

    Args:
      ids: 1-D array of token ids.
      batch_size: Number of rows.
      steps: Length of a window; the last may be shorter.

    Returns:
      A list of pairs `(inputs, targets)`, `[batch_size, <= steps]`. To fill the
      last row there are inputs with the target -1.
    """
    length = -(-(len(ids) - 1) // batch_size)
    missing = (0, batch_size * length - (len(ids) - 1))
    inputs = np.pad(ids[:-1], missing, "constant", constant_values=0)
    targets = np.pad(ids[1:], missing, "constant", constant_values=-1)
    inputs = inputs.reshape(batch_size, length)
    targets = targets.reshape(batch_size, length)
    return [
        (inputs[:, start : start + steps], targets[:, start : start + steps])
        for start in range(0, length, steps)
    ]


def check_length(corpus, batch_size, steps):
    """Refuses a text too short for one window of each part, or with no word.

    Args:
      corpus: A `Corpus`.
      batch_size: Rows of a training batch.
      steps: Length of a training window.

    Raises:
      DataError: Naming the part, the tokens needed and the tokens there.
    """
    smaller = ", or a smaller `--batch-size` or `--steps`"
    needed = (("train", batch_size * steps + 1, smaller), ("valid", 2, ""))
    for part, tokens, fix in needed:
        got = len(getattr(corpus, part))
        if got < tokens:
            raise DataError(
                f"`--data` is too short for one window: the {part} part needs "
                f"{tokens} tokens, got {got}. Use a longer text{fix}."
            )
    if len(corpus.vocabulary) == 1:
        raise DataError(
            "`--data` must repeat some of its tokens, got a text where none "
            "comes twice. Use another text, or `--level char`."
        )
