"""The arrays of a checkpoint's part: an `.npz` file, of which nothing is believed.

What the file must hold is known before it is read: the manifest, which the agent's own
shapes were compared with, says how many bytes each array has. A file that is larger, or
has a member that is packed, is refused before any of it is unpacked.
"""

import hashlib
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from kitae.base.rundir.files import new_file, open_file
from kitae.base.rundir.manifest import item_bytes

Arrays = dict[str, np.ndarray]
MAX_HEADER = 4_096  # bytes of an array's own header
MAX_ENTRY = 1_024  # bytes of a member's names and sizes in the archive


def write_part(path: Path, arrays: Arrays) -> dict[str, Any]:
    """Writes arrays into a new file.

    Returns:
        What the manifest has of it: `sha256` and `leaves`.

    Raises:
        OSError: It could not be written.
    """
    # As `np.savez` does, which in older versions leaves the archive open when the disk
    # is full. An array of bfloat16 is written as bytes of no kind; the manifest knows
    # it.
    with new_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for i, array in enumerate(arrays.values()):
            with archive.open(f"{i}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.asanyarray(array), allow_pickle=False)
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "sha256": digest,
        "leaves": [
            {"path": name, "dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in arrays.items()
        ],
    }


def check_part(path: Path, part: dict[str, Any]) -> None:
    """Refuses a file that is not as large as the manifest says; no array is read.

    Raises:
        ValueError: It is damaged; the message says why.
    """
    _guarded(lambda: _checked(path, part, read=False))


def read_part(path: Path, part: dict[str, Any]) -> list[np.ndarray]:
    """Reads the arrays in the order of the leaves, and the whole file's hash.

    Raises:
        ValueError: It is damaged; the message says why.
    """
    return _guarded(lambda: _checked(path, part, read=True))


def _guarded(work: Any) -> Any:
    """What zipfile and numpy raise at hostile bytes is of many kinds; here, of one."""
    try:
        return work()
    except MemoryError:
        raise
    except Exception as error:
        reason = error if isinstance(error, ValueError | OSError) else repr(error)
        raise ValueError(str(reason)) from error


def _checked(path: Path, part: dict[str, Any], *, read: bool) -> list[np.ndarray]:
    leaves = part["leaves"]
    sizes = [item_bytes(x["dtype"]) * math.prod(x["shape"]) for x in leaves]
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        around = (len(sizes) + 1) * (MAX_HEADER + MAX_ENTRY)
        if not sum(sizes) < size <= sum(sizes) + around:
            raise ValueError(f"it has {size:,} bytes, which its arrays do not take")
        if read:
            if hashlib.file_digest(file, "sha256").hexdigest() != part["sha256"]:
                raise ValueError("its SHA-256 is not the manifest's")
            file.seek(0)
        if not zipfile.is_zipfile(file):
            raise ValueError("it is not an .npz file")
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, sizes)
            if not read:
                return []
            return [
                _array(archive, *about)
                for about in zip(members, leaves, sizes, strict=True)
            ]


def _members(archive: zipfile.ZipFile, sizes: Sequence[int]) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if [member.filename for member in members] != [
        f"{i}.npy" for i in range(len(sizes))
    ]:
        raise ValueError("its members are not the manifest's")
    for member, size in zip(members, sizes, strict=True):
        stored = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
        if not stored or member.compress_size != member.file_size:
            raise ValueError(f"its member {member.filename} is packed")
        if not 0 < member.file_size - size <= MAX_HEADER:
            raise ValueError(f"its member {member.filename} is of another size")
    return members


def _array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, leaf: dict[str, Any], size: int
) -> np.ndarray:
    with archive.open(member) as file:
        shape, dtype = _header(file)
        if shape != tuple(leaf["shape"]) or dtype.hasobject:
            raise ValueError("its arrays are not the manifest's")
        if member.file_size - file.tell() != size:
            raise ValueError("its arrays are not the manifest's")
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER)


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(file, max_header_size=MAX_HEADER)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(file, max_header_size=MAX_HEADER)
    else:
        raise ValueError(f"its arrays are of version {version}")
    return shape, dtype
