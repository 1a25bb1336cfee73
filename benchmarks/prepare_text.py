"""Cuts a text into train.txt, valid.txt and test.txt, as PTB comes.

    bible -f "Gen1:1-Rev22:21" | sed -E 's/^[0-9A-Za-z]+:[0-9]+ //' > kjv.txt
    python benchmarks/prepare_text.py kjv.txt runs/kjv

The first command is of Debian's packages bible-kjv and bible-kjv-text: the King
James Bible, 31,102 verses, one a line, 0.79 million words, a text of PTB's
size that may be copied freely.

Of every 20 stretches of 100 lines, the 10th goes to valid.txt, the 20th to
test.txt, the others to train.txt, so that all three have all books in them.
Words are in small letters, punctuation marks are words of their own, and what
train.txt has but once is `<unk>` in all three. Prints how much there is.
"""

import argparse
import collections
import os
import re

STRETCH = 100  # lines
ROUND = {9: "valid", 19: "test"}  # of 20 stretches; the others: train
WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


def cut(lines):
    """Dict of the lines of each part, as lists of words."""
    parts = {"train": [], "valid": [], "test": []}
    for number, line in enumerate(lines):
        part = ROUND.get(number // STRETCH % 20, "train")
        parts[part].append(WORD.findall(line.lower()))
    counts = collections.Counter(x for line in parts["train"] for x in line)
    return {
        part: [
            [x if counts[x] > 1 else "<unk>" for x in y] for y in parts[part]
        ]
        for part in parts
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("text", help="a UTF-8 text file")
    parser.add_argument("folder", help="to write to")
    flags = parser.parse_args(argv)
    with open(flags.text, encoding="utf-8") as file:
        parts = cut(file)
    os.makedirs(flags.folder, exist_ok=True)
    for part, lines in parts.items():
        path = os.path.join(flags.folder, part + ".txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(" ".join(line) + "\n" for line in lines)
        words = [word for line in lines for word in line]
        unknown = words.count("<unk>") / len(words)
        print(
            f"{path}: {len(lines)} lines, {len(words)} words, "
            f"{len(set(words))} different, {unknown:.2%} <unk>"
        )


if __name__ == "__main__":
    main()
