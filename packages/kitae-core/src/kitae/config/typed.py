"""Plain values of JSON read as what annotations say; nothing else is accepted.

The annotations are those of classes in the caller's hands. Nothing that was read is
evaluated, imported or called.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import sys
import types
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MAX_KEY = 60
NOT_FINITE = ("inf", "-inf", "nan")
UNIONS = (Union, types.UnionType)
WORDS = {
    bool: "True or False",
    int: "an int",
    float: "a number",
    str: "a string",
    type(None): "None",
}
READABLE = (
    "bool, int, float, str, None, Literal, unions, list[X], tuple[X, ...], "
    "tuple[X, Y], dict[str, X] and dataclasses"
)

_short = reprlib.Repr()
_short.maxlevel = 2
_short.maxstring = _short.maxother = 80


def short(value: Any) -> str:
    """A plain value as an error shows it: the large and the deep are cut."""
    return _short.repr(value)


def finite_or_name(value: float) -> float | str:
    """A number, or the name by which JSON has it: "inf", "-inf" or "nan"."""
    return value if math.isfinite(value) else str(float(value))


def place(name: str, key: str) -> str:
    """The path of `key` in what stands at the path `name`; "" is the whole config.

    Example:
        >>> place("update_cfg", "batch_size")
        'update_cfg.batch_size'
        >>> place("update_cfg", "batch size")
        "update_cfg['batch size']"
    """
    if not key.isidentifier() or len(key) > MAX_KEY:
        return f"{name or 'the config'}[{short(key)}]"
    return f"{name}.{key}" if name else key


def check_fields(
    value: Any, name: str, kind: str, known: Collection[str], required: Collection[str]
) -> None:
    """Refuses what is not an object with fields of these names.

    Args:
        value: What was read.
        name: Its path.
        kind: What it should be, for the error.
        known: The fields it may have.
        required: Those that it must have.

    Raises:
        ValueError: It is not an object, or a field is unknown or missing.

    Example:
        >>> check_fields({"lo": 0}, "space", "Box", ["low", "high"], ["low"])
        Traceback (most recent call last):
        ...
        ValueError: space.lo is not a field of Box: did you mean low?
    """
    fields = ", ".join(known) or "none"
    if type(value) is not dict:
        raise ValueError(
            f"{name or 'the config'} must be an object with the fields of {kind} "
            f"({fields}), got {short(value)}"
        )
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {fields}"
            raise ValueError(f"{place(name, key)} is not a field of {kind}: {hint}")
    for key in required:
        if key not in value:
            raise ValueError(f"{place(name, key)} of {kind} is missing")


def read_dataclass(
    kind: type,
    value: Any,
    name: str,
    readers: Mapping[str, Callable[[Any, str], Any]] | None = None,
) -> Any:
    """Makes an instance of a dataclass from an object of JSON.

    Args:
        kind: The dataclass.
        value: What was read.
        name: Its path.
        readers: For fields that are not read by their annotation: a function of the
            plain value and its path.

    Returns:
        The instance. Fields that are missing have their defaults.

    Raises:
        ValueError: A field is unknown, missing or of another type, or the class
            refuses the values; the field is named.
    """
    fields = [field for field in dataclasses.fields(kind) if field.init]
    known = [field.name for field in fields]
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    check_fields(value, name, kind.__name__, known, required)
    hints, given = get_type_hints(kind), {}
    for key, part in value.items():
        if readers and key in readers:
            given[key] = readers[key](part, place(name, key))
        else:
            given[key] = read_value(hints[key], part, place(name, key))
    try:
        return kind(**given)
    except Exception as error:  # whatever the class's own checks raise
        raise ValueError(_placed(error, name, known)) from error


def _placed(error: Exception, name: str, fields: Collection[str]) -> str:
    """What an error says, with the whole path of the field that it begins with."""
    said = str(error) if isinstance(error, ValueError | TypeError) else repr(error)
    first = re.split(r"\W", said, maxsplit=1)[0]
    if first in fields:
        return place(name, first) + said.removeprefix(first)
    return f"{name or 'the config'}: {said}"


def read_value(hint: Any, value: Any, name: str) -> Any:
    """Reads a plain value as what an annotation says.

    Known are bool, int, float, str, None, `Literal`, unions, `list[X]`,
    `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]` and dataclasses. A bool is not
    a number; of strings only "inf", "-inf" and "nan" are, which JSON lacks. An int
    stays one where a float belongs.

    Anything else (a callable, an array, `Any`) is written by name, or as something
    from which it cannot be read back; it is refused. So is what two parts of a union
    would read differently.

    Args:
        hint: The annotation.
        value: What was read.
        name: Its path.

    Returns:
        The value; lists are tuples where the annotation says so.

    Raises:
        ValueError: The value is of another type; the field is named.

    Example:
        >>> read_value(tuple[int, ...], [120, 84], "hidden_sizes")
        (120, 84)
        >>> read_value(int | None, "4", "frame_stack")
        Traceback (most recent call last):
        ...
        ValueError: frame_stack must be an int or None, got '4'
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return _read_union(args, value, name)
    words = _words(hint, name)
    if not _fits(hint, value):
        raise ValueError(f"{name} must be {words}, got {short(value)}")
    if origin in (list, tuple):
        if _repeats(hint):
            args = args[:1] * len(value)
        parts = enumerate(zip(args, value, strict=True))
        return origin(read_value(arg, part, f"{name}[{i}]") for i, (arg, part) in parts)
    if origin is dict:
        return {k: read_value(args[1], v, place(name, k)) for k, v in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read_dataclass(hint, value, name)
    return float(value) if hint is float and isinstance(value, str) else value


def _words(hint: Any, name: str) -> str:
    """What may stand for an annotation."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and hint in WORDS:
        return WORDS[hint]
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple or (origin is list and args):
        return f"a list ({hint})"
    if origin is dict and args[:1] == (str,):
        return f"an object ({hint})"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"an object with the fields of {hint.__name__}"
    raise ValueError(
        f"{name} cannot be read from JSON, being annotated as {hint}: allowed are "
        f"{READABLE}"
    )


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of the right type itself; its parts are not looked at."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is float:
        number = type(value) in (float, int) and abs(value) <= sys.float_info.max
        return number or value in NOT_FINITE
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin in (list, tuple):
        return type(value) is list and (_repeats(hint) or len(args) == len(value))
    if origin is dict or dataclasses.is_dataclass(hint):
        return type(value) is dict
    return type(value) is hint


def _repeats(hint: Any) -> bool:
    return get_origin(hint) is list or get_args(hint)[1:] == (...,)


def _read_union(args: tuple, value: Any, name: str) -> Any:
    if value is None and type(None) in args:
        return None  # which is never the name of something else
    words = " or ".join(dict.fromkeys(_words(arg, name) for arg in args))
    fitting = [arg for arg in args if _fits(arg, value)]
    if len(fitting) == 1:
        return read_value(fitting[0], value, name)
    readings = []
    for arg in fitting:
        with suppress(ValueError):
            readings.append(read_value(arg, value, name))
    if not readings:
        raise ValueError(f"{name} must be {words}, got {short(value)}")
    first = readings[0]
    if any(type(other) is not type(first) or other != first for other in readings):
        raise ValueError(f"{name} may be {words}: {short(value)} does not show which")
    return first
