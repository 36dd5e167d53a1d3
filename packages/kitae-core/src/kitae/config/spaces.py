"""Spaces as plain values of JSON, and back, with infinities and dtypes.

Gymnasium's `to_jsonable` is for what is in a space, not for the space.
"""

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kitae.config.checks import check_flag, check_int
from kitae.config.typed import check_fields, finite_or_name, place, short

MAX_ELEMENTS = 2**26  # 4096 x 4096 pixels of 4 channels
MAX_AXES = 32
SIGNED = ("int8", "int16", "int32", "int64")
INTEGERS = (*SIGNED, "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
FIELDS = {
    "Box": ("type", "low", "high", "shape", "dtype"),
    "Discrete": ("type", "n", "start", "dtype"),
    "MultiDiscrete": ("type", "nvec", "start", "shape", "dtype"),
    "MultiBinary": ("type", "n"),
    "Dict": ("type", "spaces"),
    "Tuple": ("type", "spaces"),
}


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """Describes a space in plain values.

    Bounds that are all equal, as for images, are one number. "inf" and "-inf" stand
    for infinities, and for the bounds of integers that have none.

    Raises:
        TypeError: The space is of a kind that is not known, has a dtype that JSON
            cannot express, or a key that is not a string.
        ValueError: It has more than 2**26 elements.

    Example:
        >>> space_to_json(spaces.Box(-np.inf, 1.0, (2,)))["low"]
        '-inf'
    """
    if _size(space) > MAX_ELEMENTS:
        raise ValueError(f"{space!r} has more than {MAX_ELEMENTS} elements")
    match space:
        case spaces.Box():
            return {
                "type": "Box",
                "low": _written(space.low, space.bounded_below, "-inf"),
                "high": _written(space.high, space.bounded_above, "inf"),
                "shape": list(space.shape),
                "dtype": _dtype_name(space),
            }
        case spaces.Discrete():
            return {
                "type": "Discrete",
                "n": int(space.n),
                "start": int(space.start),
                "dtype": _dtype_name(space),
            }
        case spaces.MultiDiscrete():
            return {
                "type": "MultiDiscrete",
                "nvec": _written(space.nvec),
                "start": _written(space.start),
                "shape": list(space.shape),
                "dtype": _dtype_name(space),
            }
        case spaces.MultiBinary():
            n = space.n  # 3 and (3,) are not equal to Gymnasium
            return {"type": "MultiBinary", "n": n if isinstance(n, int) else list(n)}
        case spaces.Dict():
            for key in space.spaces:
                if not isinstance(key, str):
                    raise TypeError(
                        f"{space!r} has the key {key!r}, which is not a string"
                    )
            parts = {name: space_to_json(part) for name, part in space.items()}
            return {"type": "Dict", "spaces": parts}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(p) for p in space]}
    raise TypeError(f"{space!r} is of a kind of space that cannot be written as JSON")


def _size(space: gym.Space) -> int:
    if isinstance(space, spaces.Dict):
        return sum(_size(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return sum(_size(part) for part in space)
    return math.prod(space.shape or ())


def _dtype_name(space: gym.Space) -> str:
    name = str(space.dtype)
    if name not in ("bool", *INTEGERS, *FLOATS):
        raise TypeError(f"{space!r} has a dtype that cannot be written as JSON: {name}")
    return name


def _written(
    values: np.ndarray, bounded: np.ndarray | bool = True, infinity: str = ""
) -> Any:
    """One number where all are equal; else nested lists."""
    bounded = np.broadcast_to(bounded, values.shape)
    if not values.size:
        return values.dtype.type(0).item()
    first = values.flat[0]
    if (values == first).all() and bounded.all() == bounded.any():
        values, bounded = first[None], bounded.ravel()[:1]
    plain = [
        finite_or_name(value) if held else infinity
        for value, held in zip(values.ravel().tolist(), bounded.flat, strict=True)
    ]
    if len(plain) == 1:
        return plain[0]
    return np.array(plain, object).reshape(values.shape).tolist()


def space_from_json(value: Any, name: str = "the space") -> gym.Space:
    """Makes the space that `space_to_json` described.

    Args:
        value: Plain values, as JSON has them.
        name: What errors call the space.

    Returns:
        The space, not seeded.

    Raises:
        ValueError: It is not a space; the field is named.

    Example:
        >>> space_from_json({"type": "Discrete", "n": 3, "start": 0, "dtype": "int64"})
        Discrete(3)
        >>> space_from_json({"type": "MultiBinary", "n": 0})
        Traceback (most recent call last):
        ...
        ValueError: the space.n must be an int in [1, 67108864], got 0
    """
    try:
        return _read(value, name, MAX_ELEMENTS)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None


def _read(value: Any, name: str, room: int) -> gym.Space:
    """Reads a space of at most `room` elements."""
    if type(value) is not dict or "type" not in value:
        raise ValueError(f"{name} must be an object with a type, got {short(value)}")
    kind = _choice(value["type"], tuple(FIELDS), f"{name}.type")
    check_fields(value, name, kind, FIELDS[kind], FIELDS[kind])
    match kind:
        case "Box":
            return _read_box(value, name, room)
        case "Discrete":
            return _read_discrete(value, name)
        case "MultiDiscrete":
            return _read_multi_discrete(value, name, room)
        case "MultiBinary":
            n, path = value["n"], f"{name}.n"
            if type(n) is list:
                return spaces.MultiBinary(_read_shape(n, path, room, least=1))
            check_int(path, n, 1, room)
            return spaces.MultiBinary(n)
        case "Tuple":
            return spaces.Tuple(_read_tuple(value["spaces"], f"{name}.spaces", room))
    return spaces.Dict(_read_dict(value["spaces"], f"{name}.spaces", room))


def _read_tuple(parts: Any, name: str, room: int) -> list[gym.Space]:
    if type(parts) is not list:
        raise ValueError(f"{name} must be a list of spaces, got {short(parts)}")
    made = []
    for i, part in enumerate(parts):
        made.append(_read(part, f"{name}[{i}]", room))
        room -= _size(made[-1])
    return made


def _read_dict(parts: Any, name: str, room: int) -> list[tuple[str, gym.Space]]:
    """Reads pairs, of which Gymnasium keeps the order."""
    if type(parts) is not dict:
        raise ValueError(f"{name} must be an object of spaces, got {short(parts)}")
    made = []
    for key, part in parts.items():
        made.append((key, _read(part, place(name, key), room)))
        room -= _size(made[-1][1])
    return made


def _read_box(value: dict[str, Any], name: str, room: int) -> spaces.Box:
    dtype = _choice(value["dtype"], ("bool", *INTEGERS, *FLOATS), f"{name}.dtype")
    shape = _read_shape(value["shape"], f"{name}.shape", room)
    low, open_low = _read_array(value["low"], shape, dtype, f"{name}.low", "-inf")
    high, open_high = _read_array(value["high"], shape, dtype, f"{name}.high", "inf")
    above = low > high
    if above.any():
        at = above.argmax()
        raise ValueError(
            f"{name}.low must be at most {name}.high, got {low.flat[at]} and "
            f"{high.flat[at]}"
        )
    box = spaces.Box(low, high, shape, np.dtype(dtype))
    # Gymnasium knows an open bound by an infinity, which integers do not have.
    box.bounded_below = box.bounded_below & ~open_low
    box.bounded_above = box.bounded_above & ~open_high
    return box


def _read_discrete(value: dict[str, Any], name: str) -> spaces.Discrete:
    dtype = _choice(value["dtype"], INTEGERS, f"{name}.dtype")
    info = np.iinfo(dtype)
    n, start = value["n"], value["start"]
    check_int(f"{name}.n", n, 1, int(info.max))
    check_int(f"{name}.start", start, int(info.min), int(info.max))
    if dtype == "int64":
        return spaces.Discrete(n, start=start)
    try:
        return spaces.Discrete(n, start=start, dtype=np.dtype(dtype))
    except TypeError:  # Gymnasium 1.1 has no other dtype
        raise ValueError(
            f"{name}.dtype must be int64 for Gymnasium {gym.__version__}, got {dtype}"
        ) from None


def _read_multi_discrete(
    value: dict[str, Any], name: str, room: int
) -> spaces.MultiDiscrete:
    dtype = _choice(value["dtype"], INTEGERS, f"{name}.dtype")
    shape = _read_shape(value["shape"], f"{name}.shape", room)
    nvec, _ = _read_array(value["nvec"], shape, dtype, f"{name}.nvec")
    start, _ = _read_array(value["start"], shape, dtype, f"{name}.start")
    if (nvec < 1).any():
        raise ValueError(f"{name}.nvec must be at least 1, got {nvec.min()}")
    return spaces.MultiDiscrete(nvec, np.dtype(dtype), start=start)


def _choice(value: Any, choices: tuple[str, ...], name: str) -> str:
    if type(value) is not str or value not in choices:
        allowed = ", ".join(choices)
        raise ValueError(f"{name} must be one of {allowed}, got {short(value)}")
    return value


def _read_shape(value: Any, name: str, room: int, least: int = 0) -> tuple[int, ...]:
    if type(value) is not list or len(value) > MAX_AXES:
        raise ValueError(
            f"{name} must be a list of at most {MAX_AXES} ints, got {short(value)}"
        )
    for i, length in enumerate(value):
        check_int(f"{name}[{i}]", length, least, MAX_ELEMENTS)
    # To NumPy's limits an axis of length 0 is as one of length 1.
    if math.prod(max(length, 1) for length in value) > room:
        raise ValueError(
            f"{name} must be of at most {room} elements ({MAX_ELEMENTS} in the whole "
            f"space), got {short(value)}"
        )
    return tuple(value)


def _read_array(
    value: Any, shape: tuple[int, ...], dtype: str, name: str, infinity: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Reads nested lists, or one number for all of an array.

    Args:
        value: The lists or the number.
        shape: The array's.
        dtype: The array's.
        name: Its path.
        infinity: "inf" or "-inf": what stands for no bound where integers are bounds.

    Returns:
        The array, and where `infinity` stood.
    """
    one = type(value) is not list
    parts = [(name, value)] if one else list(_flat(value, shape, name))
    array = np.array([_read_number(p, dtype, at, infinity) for at, p in parts], dtype)
    unbounded = np.array([part == infinity for _, part in parts], bool)
    if one:  # views, which take no memory
        return np.broadcast_to(array[0], shape), np.broadcast_to(unbounded[0], shape)
    return array.reshape(shape), unbounded.reshape(shape)


def _flat(value: Any, shape: tuple[int, ...], name: str) -> Iterator[tuple[str, Any]]:
    if not shape:
        yield name, value
        return
    if type(value) is not list or len(value) != shape[0]:
        raise ValueError(
            f"{name} must be a list of length {shape[0]}, got {short(value)}"
        )
    for i, part in enumerate(value):
        yield from _flat(part, shape[1:], f"{name}[{i}]")


def _read_number(value: Any, dtype: str, name: str, infinity: str) -> Any:
    if dtype == "bool":
        check_flag(name, value)
        return value
    if dtype in FLOATS:
        high = float(np.finfo(dtype).max)
        low, words, kinds = -high, "a number", (float, int)
        named = {"-inf": -math.inf, "inf": math.inf}
    else:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        words, kinds, named = "an int", (int,), {}
        if infinity and dtype in SIGNED:
            named = {infinity: low if infinity == "-inf" else high}
    if type(value) in kinds and low <= value <= high:
        return value
    if isinstance(value, str) and value in named:
        return named[value]
    allowed = " or ".join([f"{words} in [{low}, {high}]", *map(repr, named)])
    raise ValueError(f"{name} must be {allowed}, got {short(value)}")
