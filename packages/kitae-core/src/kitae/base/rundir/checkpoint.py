"""Checkpoints: arrays and facts, written whole or not at all, checked when read.

A checkpoint is the directory `<run_dir>/checkpoints/<step>`: a `.npz` file of arrays
for each part of what is saved, and `manifest.json` with the format's version, the
facts, each leaf's path, shape and dtype, and the SHA-256 of every file, its own
included. It is written under another name and renamed when it is complete. Nothing in
it is ever unpickled, and what the disk returns is believed only if its hash is right.

Only real directories with the plain name of a step count. Others are `.<step>.tmp`,
which is not complete; `.<step>.old`, which is being replaced; and `.<step>.retired`,
which is of a branch that the run has left.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.rundir import manifest
from kitae.base.rundir.archive import Arrays, check_part, read_part, write_part
from kitae.base.rundir.files import (
    check_folder,
    move_folder,
    read_file,
    remove_any,
    sync_folder,
    write_file,
)
from kitae.config.serial import MAX_JSON_BYTES

MANIFEST = "manifest.json"
_STEP = "(0|[1-9][0-9]{0,18})"
_LEFT = r"(tmp|old|retired|old\.tmp|retired\.tmp)"
_NAME = re.compile(rf"{_STEP}|\.{_STEP}\.{_LEFT}")


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


def path_of(run_dir: Path, step: int) -> Path:
    """Returns where the checkpoint of a step is, or would be."""
    return run_dir / "checkpoints" / str(step)


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
        ValueError: `checkpoints` is a link, or the manifest would be too large.
    """
    folder = check_folder(run_dir / "checkpoints")
    final, temporary = folder / str(step), folder / f".{step}.tmp"
    try:
        folder.mkdir(exist_ok=True)
        remove_any(temporary)
        temporary.mkdir()
        body = {
            "format": manifest.FORMAT,
            "facts": facts,
            "parts": {
                name: write_part(temporary / f"{name}.npz", arrays)
                for name, arrays in parts.items()
            },
        }
        write_file(temporary / MANIFEST, manifest.sealed(body))
        sync_folder(temporary)
        if os.path.lexists(final):
            remove_any(folder / f".{step}.old")
            move_folder(final, folder / f".{step}.old", first=MANIFEST)
        temporary.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = steps(run_dir)
        kept = f"the last one is of step {last[-1]}" if last else "there is none yet"
        raise OSError(
            error.errno,
            f"the checkpoint of step {step} could not be written ({kept}): "
            f"{error.strerror or error}",
            str(final),
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    # What it replaces, and the branch that the run left for this one.
    for _, left in [*_found(run_dir, "old"), *_found(run_dir, "retired")]:
        shutil.rmtree(left, ignore_errors=True)
    return final


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
        entries = self._parts.get(name, {"leaves": []})["leaves"]
        held = {leaf["path"] for leaf in entries}
        if held != set(wanted):
            odd = sorted(held ^ set(wanted))[0]
            owner = "checkpoint" if odd in held else "agent"
            raise OtherLeaves(
                f"{self.path} is of another agent or environment: {name}{odd} is in "
                f"the {owner} only"
            )
        for leaf in entries:
            spec = specs[leaf["path"]]
            if (leaf["dtype"], leaf["shape"]) != (str(spec.dtype), list(spec.shape)):
                raise OtherLeaves(
                    f"{self.path} holds {name}{leaf['path']} as {leaf['dtype']}"
                    f"{leaf['shape']}, the agent as {spec.dtype}{list(spec.shape)}"
                )
        arrays = self._read(name, specs)
        leaves = [_rebuilt(arrays[path], like) for path, like in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def check_files(self) -> None:
        """Refuses files that are missing or of another size; no array is read.

        Raises:
            ValueError: One is, and it is named.
        """
        for name, part in self._parts.items():
            path = self.path / f"{name}.npz"
            try:
                check_part(path, part)
            except ValueError as error:
                raise ValueError(f"{path} is damaged or missing: {error}") from None

    def _read(self, name: str, specs: dict[str, Any]) -> Arrays:
        path = self.path / f"{name}.npz"
        try:
            if name not in self._parts:
                raise ValueError("the manifest does not know it")
            part = self._parts[name]
            return {
                leaf["path"]: _checked(array, specs[leaf["path"]])
                for leaf, array in zip(
                    part["leaves"], read_part(path, part), strict=True
                )
            }
        except ValueError as error:
            offer = _offer(self.path.parent.parent, self.step)
            raise ValueError(f"{path} is damaged or missing: {error}{offer}") from None


def read(run_dir: Path, step: int | None = None) -> Saved:
    """Reads a checkpoint's manifest.

    Args:
        run_dir: The run's directory.
        step: Of which step. Default: the newest.

    Raises:
        FileNotFoundError: There is none, or none of that step.
        ValueError: The manifest is damaged or missing, or `checkpoints` is a link.
    """
    folder, known = run_dir / "checkpoints", _finished(run_dir)
    if not known:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    if step is None:
        step = max(known)
    if step not in known:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint of step {step}, but of {sorted(known)}"
        )
    try:
        return _opened(known[step], step)
    except ValueError as error:
        raise ValueError(f"{error}{_offer(run_dir, step)}") from None


def _opened(path: Path, step: int) -> Saved:
    try:
        body = manifest.opened(read_file(path / MANIFEST, MAX_JSON_BYTES))
        if body["facts"]["step"] != step:
            raise ValueError(f"it is of step {body['facts']['step']}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path / MANIFEST} is damaged or missing: {error}") from None
    return Saved(path, step, body["facts"], body["parts"])


def read_whole(run_dir: Path, step: int) -> Saved | None:
    """Reads a manifest, and looks whether the files are as large as it says.

    Their hashes are not computed: that would read everything.

    Returns:
        The checkpoint. None: it is damaged, or there is none.
    """
    path = _finished(run_dir).get(step)
    if path is None:
        return None
    try:
        saved = _opened(path, step)
        saved.check_files()
    except ValueError:
        return None
    return saved


def steps(run_dir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints, ascending.

    Raises:
        ValueError: `checkpoints` is a link.
    """
    return sorted(_finished(run_dir))


def clean(run_dir: Path) -> None:
    """Removes what a killed save left; only for who holds the run's lock.

    What was retired stays until the next checkpoint is complete.
    """
    finished = _finished(run_dir)
    for kind in ("tmp", "old.tmp", "retired.tmp", None, "old"):
        for step, left in list(_found(run_dir, kind)):
            if kind == "old" and finished[step] == left:
                # Killed between the two moves of a replacement.
                move_folder(left, left.with_name(str(step)), first=MANIFEST)
            elif kind is not None or finished.get(step) != left:
                shutil.rmtree(left)


def retire(run_dir: Path, after: int) -> list[int]:
    """Sets checkpoints aside that are later than `after`: the run has left that branch.

    They are checkpoints no longer, and the next `write` removes them. A training that
    is killed on the way goes on from the newest that is left.

    Returns:
        Their steps, ascending.
    """
    later = sorted((step, path) for step, path in _found(run_dir) if step > after)
    for step, path in reversed(later):
        target = path.with_name(f".{step}.retired")
        remove_any(target)
        move_folder(path, target, first=MANIFEST)
    return [step for step, _ in later]


def remove(run_dir: Path, step: int) -> None:
    """Removes a checkpoint, which is none any more from the first moment on."""
    path = check_folder(run_dir / "checkpoints") / str(step)
    doomed = path.with_name(f".{step}.tmp")
    remove_any(doomed)
    try:
        path.rename(doomed)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # On an overlay file system. Without its manifest nobody reads the rest.
        (path / MANIFEST).unlink(missing_ok=True)
        doomed = path
    shutil.rmtree(doomed)


def _finished(run_dir: Path) -> dict[int, Path]:
    """Returns the finished checkpoints; one that is being replaced is not gone yet."""
    old, found = dict(_found(run_dir, "old")), dict(_found(run_dir))
    for step, _ in [*old.items(), *_found(run_dir, "retired")]:
        if step in found and not (found[step] / MANIFEST).exists():
            del found[step]  # killed while it was moved, see `move_folder`
    return {**old, **found}


def _found(run_dir: Path, kind: str | None = None) -> Iterator[tuple[int, Path]]:
    """Yields step and path of the directories of a kind; None: the finished ones."""
    folder = check_folder(run_dir / "checkpoints")
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and match[3] == kind and path.is_dir() and not path.is_symlink():
            yield int(match[1] or match[2]), path


def _offer(run_dir: Path, damaged: int) -> str:
    for step in reversed(steps(run_dir)):
        if step < damaged and read_whole(run_dir, step) is not None:
            return f"; the checkpoint before it is step={step}"
    return ""


def _paths(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


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
