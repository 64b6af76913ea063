"""YAML as DVC reads it: version 1.2, with merges and times."""

import re
from functools import lru_cache
from typing import Any

import yaml

_DEEPEST = 100  # levels of nesting; the params have five
_TOO_DEEP = f"values are nested more than {_DEEPEST} deep"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml's if it is there
    """Reads YAML 1.2 like DVC: `yes` is a text, 1e-3 a number, `<<: *name` brings in the keys of another
    mapping, and a key that stands twice is an error.
    """

    yaml_implicit_resolvers: dict = {}

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.flat = set[yaml.MappingNode]()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Bring in the keys of other mappings, once; of each key the one that stands here counts."""
        if node in self.flat:
            return
        self.flat.add(node)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                place = f"line {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"key {key.value!r} stands twice, again in {place}; take one out")
            seen.add(key.value)
        super().flatten_mapping(node)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 10 if text.lstrip("+-0").isdecimal() else 0) if text.strip("+-0") else 0


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?[0-9_]+|[-+]?0x[0-9a-fA-F_]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
    (
        "timestamp",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}"
        r":[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?",
        "0123456789",
    ),
):
    first = [letter if letter != "\0" else "" for letter in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


@lru_cache(maxsize=2)
def load_yaml(text: str) -> Any:
    """Return what a text says; yaml.YAMLError or ValueError if it is no YAML, or a value holds itself."""
    try:
        content = yaml.load(text, _Loader)
    except (AttributeError, KeyError, TypeError) as error:  # of PyYAML's constructors, for `!!bool x`
        raise yaml.YAMLError(f"a value does not fit its tag: {error}") from None
    except RecursionError:
        raise yaml.YAMLError(_TOO_DEEP) from None
    _check_depth(content, set(), set())
    return content


def _check_depth(value: Any, opened: set[int], done: set[int]) -> None:
    """Raise yaml.YAMLError if a list or mapping holds itself or others too deep; the ids tell them apart."""
    if not isinstance(value, list | dict) or id(value) in done:
        return
    if id(value) in opened:
        raise yaml.YAMLError("a value holds itself by an alias")
    if len(opened) == _DEEPEST:
        raise yaml.YAMLError(_TOO_DEEP)
    opened.add(id(value))
    for part in value.values() if isinstance(value, dict) else value:
        _check_depth(part, opened, done)
    opened.remove(id(value))
    done.add(id(value))
