"""Stacks of frames of which each frame is kept once (Mnih et al., 2015).

Of the `2 * stack` frames in a transition, all but one were in the transition before.
So only that one is pushed, and at the beginning of a sequence, where there is no
transition before, the whole stack: whatever it was padded with is kept as it was.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kitae.buffer._fields import field
from kitae.buffer._rows import with_rows


class Frames(NamedTuple):
    """A ring of single frames for each environment.

    Attributes:
        images: Built as an observation; each leaf `[n_frames, n_envs, height, width]`.
        head: `[n_envs]` int32, where the next frame of each environment goes.
    """

    images: Any
    head: jax.Array

    @property
    def n_frames(self) -> int:
        """Frames that fit for one environment."""
        return jax.tree.leaves(self.images)[0].shape[0]


def frame_capacity(capacity: int, stack: int) -> int:
    """Frames kept for `capacity` rows: enough if sequences have `16 * stack` rows.

    A row takes one frame and a beginning `stack` more, so a sixteenth more than rows
    will do; and never fewer than one row's own.
    """
    return capacity + -(-capacity // 16) + stack + 1


def check_frames(row: Any, stack: int) -> None:
    """Refuses observations that are not stacks of images.

    Args:
        row: One row, each leaf with `shape` and `dtype`.
        stack: Frames in an observation.

    Raises:
        ValueError: A leaf of `observation` is not `[stack, height, width]`, or
            `next_observation` differs from it.
    """
    observation, following = field(row, "observation"), field(row, "next_observation")

    def check(name: str, leaf: Any) -> None:
        if len(leaf.shape) != 3 or leaf.shape[0] != stack:
            raise ValueError(
                f"{name} must be [frame_stack = {stack}, height, width], got "
                f"{leaf.dtype}{list(leaf.shape)}"
            )

    for name, tree in (("observation", observation), ("next_observation", following)):
        if not jax.tree.leaves(tree):
            raise ValueError(f"{name} must have at least one leaf, got {tree!r}")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            check(name + jax.tree_util.keystr(path), leaf)
    specs = [
        (jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)])
        for tree in (observation, following)
    ]
    if specs[0] != specs[1]:
        raise ValueError(
            f"next_observation must be as observation, {observation}, got {following}"
        )


def empty_frames(observation: Any, n_frames: int, n_envs: int) -> Frames:
    """Room for the frames of observations whose leaves are `[stack, height, width]`."""

    def zeros(leaf: Any) -> jax.Array:
        return jnp.zeros((n_frames, n_envs, *leaf.shape[1:]), leaf.dtype)

    return Frames(jax.tree.map(zeros, observation), jnp.zeros(n_envs, jnp.int32))


def push_frames(
    frames: Frames, rows: Any, begins: jax.Array, valid: jax.Array
) -> tuple[Frames, jax.Array]:
    """Pushes what rows `[n_envs, ...]` bring that is new.

    Args:
        frames: What is held.
        rows: With `observation` and `next_observation`, leaves `[n_envs, stack, ...]`.
        begins: `[n_envs]` bool, this row begins a sequence.
        valid: `[n_envs]` bool, this row is stored.

    Returns:
        The frames, and `[n_envs]` int32 where the last one of each observation is:
        the stack ends there, and that of the next observation one further.
    """
    observation, following = field(rows, "observation"), field(rows, "next_observation")
    n_frames, stack = frames.n_frames, jax.tree.leaves(observation)[0].shape[1]
    offsets = jnp.arange(stack, dtype=jnp.int32)[None, :]
    envs = jnp.arange(valid.size, dtype=jnp.int32)[:, None]
    # Nothing is pushed past the end: the scatter drops it, without a branch.
    whole = jnp.where(
        (begins & valid)[:, None],
        (frames.head[:, None] + offsets) % n_frames,
        n_frames,
    )
    images = jax.tree.map(
        lambda ring, new: ring.at[whole, envs].set(
            new, mode="drop", unique_indices=True
        ),
        frames.images,
        observation,
    )
    slot = (frames.head + jnp.where(begins, stack, 0) - 1) % n_frames
    newest = jax.tree.map(lambda leaf: leaf[:, -1], following)
    images = with_rows(images, newest, (slot + 1) % n_frames, valid)
    head = jnp.where(valid, (slot + 2) % n_frames, frames.head)
    return Frames(images, head), slot


def stacks_at(frames: Frames, slot: jax.Array, env: jax.Array, stack: int) -> Any:
    """Gathers the stacks `[n, stack, ...]` that end at `slot` `[n]` of `env` `[n]`."""
    offsets = jnp.arange(1 - stack, 1, dtype=jnp.int32)[None, :]
    time = (slot[:, None] + offsets) % frames.n_frames
    index = time * frames.head.size + env[:, None]
    return jax.tree.map(
        lambda ring: ring.reshape(-1, *ring.shape[2:])[index], frames.images
    )


def frames_since(frames: Frames, slot: jax.Array, stack: int) -> jax.Array:
    """Counts the frames from the first of the stack that ends at `slot` to the newest.

    Args:
        frames: What is held.
        slot: `[n_envs, n]` int32, of rows whose frames are all held.
        stack: Frames in an observation.

    Returns:
        `[n_envs, n]` int32 from 1 to `n_frames`.
    """
    first = slot - stack + 1
    return (frames.head[:, None] - first - 1) % frames.n_frames + 1
