"""Parameters are what DVC reads: ruamel.yaml, DVC's own library, is the oracle."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ssdh.core.errors import ParameterError
from ssdh.core.params import read_params, read_text
from ssdh.core.yaml_text import parse_yaml

KNOWN = {
    "012": 12, "1:30": "1:30", "0o17": 15, "0x1F": 31, "0b11": 3, "1e3": 1000.0, "1e-3": 0.001, "1_000": 1000,
    "yes": "yes", "on": "on", "off": "off", "y": "y", "True": True, ".inf": float("inf"), "-.inf": -float("inf"),
    "1.": 1.0, ".5": 0.5, ".5e3": ".5e3", "08": 8, "0o8": "0o8", "-0o7": -7, "~": None, "": None, "1:30.5": "1:30.5",
}  # fmt: skip


def as_dvc(text: str) -> Any:
    """What DVC reads; its library's own error stands for all that it refuses."""
    try:
        return YAML(typ="safe").load(text)
    except Exception:
        return ValueError


def as_ours(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return ValueError


@pytest.mark.parametrize(("text", "expected"), KNOWN.items())
def test_every_form_of_a_number_and_of_a_truth(text: str, expected: Any) -> None:
    value = parse_yaml(f"key: {text}")["key"]
    assert value == expected
    assert type(value) is type(expected)


NUMBERS = st.text(alphabet="0123456789abefox_.+-:EINFn", min_size=1, max_size=9)
WORDS = st.sampled_from(["yes", "No", "ON", "tRUE", "TRUE", "null", "NULL", "nan", ".NaN", ".NAN", "<<", "~", "=", "y"])


@settings(max_examples=400)
@given(st.one_of(NUMBERS, WORDS))
@example("0b_")
@example(":")
@example("-_1")
@example("+_")
@example("0x")
@example("2001-13-45")
def test_scalars_are_read_as_dvc_reads_them(text: str) -> None:
    in_list = (
        [] if ":" in (text[0], text[-1]) else [f"key: [{text}, 1]"]
    )  # where the two take it for a text and for a key
    for form in (f"key: {text}", *in_list):
        ours, dvc = as_ours(form), as_dvc(form)
        assert repr(ours) == repr(dvc), form  # repr tells 1 from True and nan from nothing


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bits: 16\nseed: 0\nbits: 32\n", "bits stands there twice"),
        ("%YAML 1.1\n---\nbits: 012\n", "another version than YAML 1.2"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: 2001-13-45", "month must be in 1..12"),
        ("a: !!int x", "invalid literal"),
        ("a: \x00", "special characters"),
    ],
)
def test_what_dvc_would_refuse_is_one_line(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError) as error:
        read_params(path)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
def test_another_encoding_is_one_line(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("root: /fotos/schön\n", encoding=encoding)
    with pytest.raises(ParameterError, match=r"params\.yaml (is not in UTF-8 .*: save it as UTF-8|is not valid YAML)"):
        read_params(path)


def test_a_mark_at_the_beginning_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("bits: 12\n", encoding="utf-8-sig")
    assert read_params(path) == {"bits": 12}
    with pytest.raises(ParameterError, match="cannot be read"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "n0: &n0 [x, x]\n" + "".join(f"n{n}: &n{n} [*n{n - 1}, *n{n - 1}]\n" for n in range(1, 30)),
            "stand for more than 1,000,000 values",
        ),
        ("bits: &a [*a]\n", "an alias of what it stands in"),
        ("train: &t\n  loss: *t\n", "an alias of what it stands in"),
    ],
)
def test_aliases_that_grow_are_one_line(text: str, reason: str) -> None:
    """Their text would be billions of letters long: in the message that refuses them, for one."""
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)


def test_aliases_are_values_as_any() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\n") == {"a": [1, 2], "b": [1, 2]}
