"""Checkpoints: arrays and counters, written whole or not at all, checked when read.

A checkpoint is the directory `<run_dir>/checkpoints/<step>`: `arrays/` as Orbax
writes it, and `manifest.json` with the version, each leaf's path, shape and dtype,
the counters, and the SHA-256 of every file. It is written under another name and
renamed when it is complete. Nothing in it is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

VERSION = 1
MANIFEST = "manifest.json"


def import_orbax() -> Any:
    """Returns Orbax's module, which takes half a second to import: seldom needed."""
    import orbax.checkpoint

    return orbax.checkpoint


def save(
    run_dir: Path, step: int, trees: dict[str, Any], counters: dict[str, Any]
) -> Path:
    """Writes a checkpoint.

    Args:
        run_dir: The run's directory.
        step: Names the checkpoint; one of the same step is replaced.
        trees: Pytrees of arrays, by name.
        counters: Plain JSON values.

    Returns:
        The checkpoint's directory.
    """
    ocp = import_orbax()
    folder = run_dir / "checkpoints"
    folder.mkdir(exist_ok=True)
    final, temporary = folder / str(step), folder / f".{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    leaves = {
        path: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for path, leaf in _paths(trees).items()
    }
    # Of several processes, the one that writes need not wait for the others.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
        checkpointer.save(
            (temporary / "arrays").absolute(),
            {str(i): leaf for i, leaf in enumerate(leaves.values())},
        )
    manifest = {
        "version": VERSION,
        "counters": counters,
        "leaves": [
            {"path": path, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}
            for path, leaf in leaves.items()
        ],
        "files": {name: _sha256(temporary / name) for name in _files(temporary)},
    }
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for name in [*_files(temporary), MANIFEST]:
        _fsync(temporary / name)
    old = folder / f".{step}.old"
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    _fsync(folder)
    shutil.rmtree(old, ignore_errors=True)
    return final


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and found whole."""

    counters: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def tree(self, name: str, like: Any) -> Any:
        """Returns the tree saved as `name`, built as `like`.

        Raises:
            ValueError: It has other leaves, shapes or dtypes; the leaf is named.
        """
        wanted = _paths({name: like})
        held = {path for path in self.arrays if path.startswith(f"['{name}']")}
        if held != set(wanted):
            odd = sorted(held ^ set(wanted))[0]
            raise ValueError(f"the checkpoint is of another agent: it differs in {odd}")
        leaves = [self._leaf(path, leaf) for path, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _leaf(self, path: str, like: Any) -> jax.Array:
        array = self.arrays[path]
        spec = jax.random.key_data(like) if _is_key(like) else jnp.asarray(like)
        if array.shape != spec.shape or array.dtype != spec.dtype:
            raise ValueError(
                f"the checkpoint holds {path} as {array.dtype}{list(array.shape)}, "
                f"the agent as {spec.dtype}{list(spec.shape)}"
            )
        restored = jnp.array(array)
        if _is_key(like):
            return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(like))
        return restored


def load(run_dir: Path) -> Saved:
    """Reads the newest checkpoint of a run.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged; the file is named.
    """
    ocp = import_orbax()
    folder = run_dir / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    if not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    path = folder / str(max(steps))
    manifest = _checked_manifest(path)
    target = {
        str(i): np.empty(leaf["shape"], leaf["dtype"])
        for i, leaf in enumerate(manifest["leaves"])
    }
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore((path / "arrays").absolute(), target)
    names = [leaf["path"] for leaf in manifest["leaves"]]
    return Saved(
        manifest["counters"], {name: arrays[str(i)] for i, name in enumerate(names)}
    )


def _checked_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / MANIFEST} is damaged: {error}") from None
    if version != VERSION:
        raise ValueError(
            f"{path / MANIFEST} is of format {version!r}, this Kitae reads {VERSION}"
        )
    for name, digest in files.items():
        file = path / name
        if not file.is_file() or _sha256(file) != digest:
            raise ValueError(f"{file} is damaged or missing")
    return manifest


def _paths(trees: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
    }


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _files(folder: Path) -> list[str]:
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
