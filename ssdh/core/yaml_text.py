"""YAML as DVC reads it: version 1.2, by the rules of ruamel.yaml for plain scalars, on PyYAML.

PyYAML alone reads version 1.1: `012` as 10, `1:30` as 90, `yes` as true, `1e-3` as a text. DVC would record another
value in dvc.lock than a stage had worked with.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

MOST_VALUES = 1_000_000  # of a text with its aliases written out
_SIGNS_AND_DIGITS = "-+0123456789"
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]+)")

_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+"  # 1e3, 1.5e-3
    r"|[-+]?[0-9][0-9_]*\.[0-9_]*"  # 1. and 1.5
    r"|[-+]?\.[0-9_]+([eE][-+][0-9]+)?"  # .5 and .5e+3
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)

_BASES = {"0b": 2, "0o": 8, "0x": 16}


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; a key that stands twice is an error, as it is for DVC."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}  # none of version 1.1


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-")
    base = _BASES.get(digits[:2], 10)
    return sign * int(digits if base == 10 else digits[2:], base)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return str(loader.construct_scalar(node)).lower() == "true"


def _no_value(loader: _Loader, node: yaml.ScalarNode) -> None:
    raise yaml.constructor.ConstructorError(None, None, "= stands for no value", node.start_mark)


def _resolve(tag: str, pattern: re.Pattern[str], first: list[str]) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern.pattern})$"), first)


_resolve("bool", _BOOL, list("tTfF"))
_resolve("float", _FLOAT, [*_SIGNS_AND_DIGITS, "."])
_resolve("int", _INT, list(_SIGNS_AND_DIGITS))
_resolve("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""])
_resolve("timestamp", re.compile(r"\d{4}-\d\d-\d\d"), list("0123456789"))
_resolve("merge", re.compile("<<"), ["<"])
_resolve("value", re.compile("="), ["="])
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:bool", _bool)
_Loader.add_constructor("tag:yaml.org,2002:value", _no_value)


def _refuse_growth(value: Any) -> None:
    """Raise ValueError where aliases make a value that is endless, or long once it is written out."""
    sizes: dict[int, int] = {}  # of lists and mappings by id; 0 while they are counted

    def size(part: Any) -> int:
        if not isinstance(part, (list, dict, set)):
            return 1
        if id(part) not in sizes:
            sizes[id(part)] = 0
            sizes[id(part)] = 1 + sum(map(size, part.values() if isinstance(part, dict) else part))
        elif not sizes[id(part)]:
            raise ValueError("it holds an alias of what it stands in")
        return sizes[id(part)]

    if size(value) > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError with one line where it is none, or declares another version."""
    if re.match(r"\ufeff?%YAML\s+(?!1\.2\s)", text):
        raise ValueError("it declares another version than YAML 1.2: remove its %YAML line")
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
        _refuse_growth(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return value
