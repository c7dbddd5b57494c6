"""`python -m ssdh show`: which columns it keeps of those that `dvc exp show` has."""

import re

import pytest

from ssdh.cli.show import columns


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("params.yaml:structure.alpha", True),  # so DVC names what a recipe's file holds too
        ("params.yaml:train.lr", True),
        ("datasets.digits.topk", True),
        ("itq.map", True),
        ("alpha", False),
        ("ssdh/methods/manifold.yaml:train.lr", False),
    ],
)
def test_parameters_that_vary_are_kept(name: str, kept: bool) -> None:
    """DVC drops the columns whose names the pattern matches from their start."""
    dropped = columns([{"map": "0.5", name: "1"}], [])[-1]
    assert (re.match(dropped, name) is None) == kept
