"""Grids of cases: what covers one is in the fast suite, the rest is slow."""

import itertools

import pytest


def thinned(cases, quick):
    """Parameters: `cases`, of which those that are not `quick` are slow."""
    assert set(quick) <= set(cases)
    return some_slow(cases, lambda *case: case in quick)


def some_slow(cases, is_quick):
    """Parameters: `cases`, slow where `is_quick` of their values is false."""
    return [
        pytest.param(*case, marks=[pytest.mark.slow] * (not is_quick(*case)))
        for case in cases
    ]


def singles(*factors):
    """Parameters: all combinations; few that have each value are quick."""
    quick = [
        tuple(factor[number % len(factor)] for factor in factors)
        for number in range(max(map(len, factors)))
    ]
    return thinned(list(itertools.product(*factors)), quick)


def pairs(*factors):
    """Parameters: all combinations; few that have each two values are quick."""
    cases, quick = list(itertools.product(*factors)), []

    def pairs_of(case):
        return set(itertools.combinations(enumerate(case), 2))

    missing = set().union(*map(pairs_of, cases))
    while missing:
        quick.append(max(cases, key=lambda case: len(missing & pairs_of(case))))
        missing -= pairs_of(quick[-1])
    return thinned(cases, quick)
