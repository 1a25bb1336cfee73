"""Types for `argparse` that refuse what an example cannot use."""

import argparse


def checked(convert, rule, fits):
    """A type: `convert(text)`, refused unless it `fits` the `rule`."""

    def parse(text):
        value = convert(text)
        if not fits(value):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text}.")
        return value

    parse.__name__ = convert.__name__  # argparse says "invalid int value"
    return parse


def at_least(least):
    """A type for whole numbers from `least` on."""
    return checked(int, f"at least {least}", lambda value: value >= least)


keep_rate = checked(float, "in (0, 1]", lambda value: 0.0 < value <= 1.0)
seed = checked(int, "in [0, 2**32)", lambda value: 0 <= value < 2**32)
