"""The manifest of a checkpoint: sealed with its own hash, and checked field by field.

A hash that is right says that the file is as it was written, not who wrote it. So each
field is checked before anything is done with it.
"""

import hashlib
import json
import math
import re
from typing import Any

import numpy as np

from kitae.config import check_int, check_number
from kitae.config.serial import check_size, strict_json
from kitae.config.typed import short

FORMAT = 1
MAX_COUNT = 2**63 - 1
MAX_AXES = 64
MAX_BYTES = 2**50
_END = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')
_DTYPE = re.compile(r"bool|(u?int|b?float|complex)\d+(_?[a-z0-9]+)*")


def sealed(body: dict[str, Any]) -> bytes:
    """Writes a manifest, its own SHA-256 last.

    Raises:
        ValueError: It would be too large to be read.
    """
    digest = hashlib.sha256(_written(body)).hexdigest()
    content = _written({**body, "sha256": digest})
    try:
        check_size(content)
    except ValueError as error:
        raise ValueError(f"the checkpoint's manifest is too large: {error}") from None
    return content


def opened(content: bytes) -> dict[str, Any]:
    """Reads what `sealed` wrote.

    Returns:
        `facts` and `parts`, of which every field has its type and range.

    Raises:
        ValueError: A byte is another, a field is missing or of another type or out of
            its range, or the format is another; the message says why.
    """
    end = _END.search(content)
    if end is None:
        raise ValueError("it is not a manifest")
    body = content[: end.start()] + b"\n}\n"
    if hashlib.sha256(body).hexdigest().encode() != end[1]:
        raise ValueError("its SHA-256 is another")
    manifest = _object("it", strict_json(body))
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"it is of format {short(manifest.get('format'))}, this version of "
            f"kitae-core reads format {FORMAT}"
        )
    _check_facts(_object("facts", manifest.get("facts")))
    _check_parts(_object("parts", manifest.get("parts")))
    return manifest


def item_bytes(dtype: str) -> int:
    """Returns the bytes of one element.

    Raises:
        ValueError: There is no such dtype of numbers.

    Example:
        >>> item_bytes("float32")
        4
    """
    try:
        if _DTYPE.fullmatch(dtype):
            return np.dtype(dtype).itemsize
    except TypeError:
        pass
    raise ValueError(f"dtype must name one of numbers, got {short(dtype)}")


def _written(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, allow_nan=False) + "\n").encode()


def _check_facts(facts: dict[str, Any]) -> None:
    """Those that a later version may have added are left alone."""
    known = ("agent", "config", "step", "iteration", "updates", "rows", "row")
    for name in (*known, "seconds", "info", "score"):
        if name not in facts:
            raise ValueError(f"facts.{name} is missing")
    _text("facts.agent", facts["agent"])
    _object("facts.config", facts["config"])
    for name in ("step", "iteration", "updates"):
        check_int(f"facts.{name}", _plain(facts[name]), 0, MAX_COUNT)
    for value in _list("facts.rows", facts["rows"]):
        check_int("facts.rows", _plain(value), 0, MAX_COUNT)
    for name, value in _object("facts.row", facts["row"]).items():
        _text(f"facts.row[{short(name)}]", value)
    check_number("facts.seconds", _plain(facts["seconds"]), 0.0)
    for name, value in _object("facts.info", facts["info"]).items():
        check_number(f"facts.info[{short(name)}]", _plain(value))
    if facts["score"] is not None:
        check_number("facts.score", _plain(facts["score"]))


def _check_parts(parts: dict[str, Any]) -> None:
    for name, part in parts.items():
        if not re.fullmatch(r"[a-z]{1,40}", name):  # it names a file
            raise ValueError(f"parts must have names of letters, got {short(name)}")
        part = _object(f"parts.{name}", part)
        digest = part.get("sha256")
        if not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
            raise ValueError(f"parts.{name}.sha256 must be one, got {short(digest)}")
        paths = set()
        for leaf in _list(f"parts.{name}.leaves", part.get("leaves")):
            paths.add(_check_leaf(f"parts.{name}.leaves", leaf))
        if len(paths) != len(part["leaves"]):
            raise ValueError(f"parts.{name}.leaves has a path twice")


def _check_leaf(name: str, leaf: Any) -> str:
    leaf = _object(name, leaf)
    path = leaf.get("path")
    if not isinstance(path, str):
        raise ValueError(f"{name} must have a path, got {short(path)}")
    dtype = item_bytes(_text(f"{name}.dtype", leaf.get("dtype")))
    shape = _list(f"{name}.shape", leaf.get("shape"))
    if len(shape) > MAX_AXES:
        raise ValueError(f"{name}.shape must have at most {MAX_AXES} axes")
    for length in shape:
        check_int(f"{name}.shape", _plain(length), 0, MAX_BYTES)
    if math.prod(shape) * dtype > MAX_BYTES:
        raise ValueError(f"{name}.shape is too large: {short(shape)}")
    return path


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {short(value)}")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {short(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError(
            f"{name} must be a text of 1 to 200 letters, got {short(value)}"
        )
    return value


def _plain(value: Any) -> Any:
    """What is not a number is cut, so that an error which shows it stays short."""
    return value if isinstance(value, int | float) else short(value)
