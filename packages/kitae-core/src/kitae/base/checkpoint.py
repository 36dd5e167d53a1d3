"""Checkpoints: arrays and facts, written whole or not at all, checked when read.

A checkpoint is the directory `<run_dir>/checkpoints/<step>`: a `.npz` file of arrays
for each part of what is saved, and `manifest.json` with the format's version, the
facts, each leaf's path, shape and dtype, and the SHA-256 of every file, its own
included. It is written under another name and renamed when it is complete. Nothing in
it is ever unpickled, and what the disk returns is believed only if its hash is right.
"""

import hashlib
import json
import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.format import write_array

from kitae.base.files import sync_folder, write_synced
from kitae.config.serial import strict_json

FORMAT = 1
MANIFEST = "manifest.json"
Arrays = dict[str, np.ndarray]


def host_arrays(tree: Any, *, copy: bool) -> Arrays:
    """Brings a pytree to the host: its leaves by their paths, keys as their data.

    Args:
        tree: Of arrays.
        copy: Whether each array gets memory of its own, so that what is done to the
            tree afterwards does not change it.
    """
    return {
        path: np.array(_plain(leaf)) if copy else np.asarray(_plain(leaf))
        for path, leaf in _paths(tree).items()
    }


def write(
    run_dir: Path, step: int, parts: dict[str, Arrays], facts: dict[str, Any]
) -> Path:
    """Writes a checkpoint; one of the same step is replaced.

    Args:
        run_dir: The run's directory.
        step: Names the checkpoint.
        parts: Arrays, by the name of the part and their path in it.
        facts: Plain JSON values.

    Returns:
        The checkpoint's directory.

    Raises:
        OSError: It could not be written; what was there before still is.
    """
    folder = run_dir / "checkpoints"
    final, temporary = folder / str(step), folder / f".{step}.tmp"
    try:
        folder.mkdir(exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        manifest = {
            "format": FORMAT,
            "facts": facts,
            "parts": {
                name: _write_part(temporary / f"{name}.npz", arrays)
                for name, arrays in parts.items()
            },
        }
        write_synced(temporary / MANIFEST, _sealed(manifest))
        sync_folder(temporary)
        if final.exists():
            final.rename(folder / f".{step}.old")
        temporary.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = steps(run_dir)
        kept = f"the last one is of step {last[-1]}" if last else "there is none yet"
        raise OSError(
            error.errno,
            f"the checkpoint of step {step} could not be written ({kept}): "
            f"{error.strerror}",
            str(final),
        ) from error
    shutil.rmtree(folder / f".{step}.old", ignore_errors=True)
    return final


def _write_part(path: Path, arrays: Arrays) -> dict[str, Any]:
    with path.open("wb") as file:
        # As `np.savez` does, which in older versions leaves the archive open when the
        # disk is full. An array of bfloat16 is written as bytes of no kind; the
        # manifest knows it.
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in _numbered(list(arrays.values())).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    write_array(member, np.asanyarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {
        "sha256": _sha256(path),
        "leaves": [
            {"path": name, "dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in arrays.items()
        ],
    }


class OtherLeaves(ValueError):
    """A checkpoint is whole, but holds other leaves, shapes or dtypes."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose manifest was read and found whole.

    Attributes:
        path: Its directory.
        step: Its environment steps.
        facts: Plain values, as they were given to `write`.
    """

    path: Path
    step: int
    facts: dict[str, Any]
    _parts: dict[str, Any]

    def __contains__(self, name: str) -> bool:
        """Whether it has such a part."""
        return name in self._parts

    def tree(self, name: str, like: Any) -> Any:
        """Returns the part `name`, built as `like`.

        Args:
            name: Of the part.
            like: A pytree of arrays, or of their shapes and dtypes.

        Raises:
            ValueError: Its file is damaged or missing, which is named.
            OtherLeaves: It has other leaves, shapes or dtypes; the leaf is named.
        """
        wanted = _paths(like)
        specs = {path: _spec(leaf) for path, leaf in wanted.items()}
        told = self._parts.get(name, {"leaves": []})["leaves"]
        held = {leaf["path"] for leaf in told}
        if held != set(wanted):
            odd = sorted(held ^ set(wanted))[0]
            owner = "checkpoint" if odd in held else "agent"
            raise OtherLeaves(
                f"{self.path} is of another agent or environment: {name}{odd} is in "
                f"the {owner} only"
            )
        for leaf in told:
            spec = specs[leaf["path"]]
            if (leaf["dtype"], leaf["shape"]) != (str(spec.dtype), list(spec.shape)):
                raise OtherLeaves(
                    f"{self.path} holds {name}{leaf['path']} as {leaf['dtype']}"
                    f"{leaf['shape']}, the agent as {spec.dtype}{list(spec.shape)}"
                )
        arrays = self._read(name, told, specs)
        leaves = [_rebuilt(arrays[path], like) for path, like in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _read(self, name: str, told: list[Any], specs: dict[str, Any]) -> Arrays:
        path = self.path / f"{name}.npz"
        try:
            if _sha256(path) != self._parts[name]["sha256"]:
                raise ValueError("its SHA-256 is not the manifest's")
            if not zipfile.is_zipfile(path):
                raise ValueError("it is no .npz file")
            with np.load(path, allow_pickle=False) as file:
                stored = [file[member] for member in _numbered(told)]
            return {
                leaf["path"]: _checked(array, specs[leaf["path"]])
                for leaf, array in zip(told, stored, strict=True)
            }
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            offer = _offer(self.path.parent.parent, self.step)
            raise ValueError(f"{path} is damaged or missing: {error}{offer}") from None


def read(run_dir: Path, step: int | None = None) -> Saved:
    """Reads a checkpoint's manifest.

    Args:
        run_dir: The run's directory.
        step: Of which step. Default: the newest.

    Raises:
        FileNotFoundError: There is none, or none of that step.
        ValueError: The manifest is damaged or missing.
    """
    folder, known = run_dir / "checkpoints", steps(run_dir)
    if not known:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    if step is None:
        step = known[-1]
    if step not in known:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint of step {step}, but of {known}"
        )
    path = folder / str(step)
    if not path.exists():
        path = folder / f".{step}.old"
    try:
        manifest = _opened((path / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path / MANIFEST} is damaged or missing: {error}{_offer(run_dir, step)}"
        ) from None
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{path / MANIFEST} is of format {manifest['format']!r}, this version of "
            f"kitae-core reads format {FORMAT}"
        )
    return Saved(path, step, manifest["facts"], manifest["parts"])


def steps(run_dir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending."""
    folder = run_dir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = (re.fullmatch(r"(?a:\.(\d+)\.old|(\d+))", name) for name in names)
    return sorted({int(match[1] or match[2]) for match in found if match})


def clean(run_dir: Path) -> None:
    """Removes what a killed save left; only for who holds the run's lock."""
    folder = run_dir / "checkpoints"
    for left in [*folder.glob(".*.tmp"), *folder.glob(".*.old")]:
        final = folder / left.name.split(".")[1]
        if left.suffix == ".old" and not final.exists():
            left.rename(final)  # killed between the two renames of a replacement
        else:
            shutil.rmtree(left)


def remove(run_dir: Path, step: int) -> None:
    """Removes a checkpoint, which is none any more from the first moment on."""
    path = run_dir / "checkpoints" / str(step)
    doomed = path.with_name(f".{step}.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _sealed(manifest: dict[str, Any]) -> bytes:
    """Writes a manifest with its own hash; in one form only, so every byte counts."""
    digest = hashlib.sha256(_canonical(manifest)).hexdigest()
    return _canonical({**manifest, "sha256": digest})


def _opened(content: bytes) -> dict[str, Any]:
    manifest = strict_json(content)
    fields = {"format", "facts", "parts", "sha256"}
    if not isinstance(manifest, dict) or set(manifest) != fields:
        raise ValueError("it is no manifest")
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    if _sealed(body) != content:
        raise ValueError("its SHA-256 is another")
    return body


def _canonical(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode()


def _offer(run_dir: Path, damaged: int) -> str:
    before = [step for step in steps(run_dir) if step < damaged]
    return f"; the checkpoint before it is step={before[-1]}" if before else ""


def _paths(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _numbered(items: list[Any]) -> dict[str, Any]:
    return {str(i): item for i, item in enumerate(items)}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _spec(like: Any) -> Any:
    """Returns shape and dtype of what is stored of a leaf."""
    if isinstance(like, np.ndarray):
        return like
    return jax.eval_shape(lambda leaf: jnp.asarray(_plain(leaf)), like)


def _checked(array: np.ndarray, spec: Any) -> np.ndarray:
    if array.dtype.kind == "V" and array.dtype.itemsize == spec.dtype.itemsize:
        array = array.view(spec.dtype)
    if array.dtype != spec.dtype or array.shape != spec.shape:
        raise ValueError("its arrays are not the manifest's")
    return array


def _rebuilt(array: np.ndarray, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return array
    restored = jnp.array(array)
    if not _is_key(like):
        return restored
    impls: list[Any] = []
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(restored, impl=impls[0])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
