"""The same storages as objects, for code that wants to hold one and call it."""

from typing import Any

import jax

from kitae.buffer.replay import uniform_replay
from kitae.buffer.rollout import rollout_storage


class OffPolicyBuffer:
    """A uniform replay that keeps its own state.

    Args:
        row: One example row without an environment axis, as `Replay.init` takes it.
        capacity: Rows kept for each environment, at least 1.
        n_envs: Parallel environments, at least 1.
        batch_size: Rows in one sample, at least 1.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> buffer = OffPolicyBuffer({"x": 0.0}, capacity=8, n_envs=2, batch_size=4)
        >>> buffer.add({"x": jnp.array([1.0, 1.0])})
        >>> len(buffer), buffer.sample(jax.random.key(0))["x"].tolist()
        (2, [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(self, row: Any, capacity: int, n_envs: int, batch_size: int) -> None:
        replay = uniform_replay(capacity, n_envs, batch_size)
        self.state = replay.init(row)
        self._add = jax.jit(replay.add, donate_argnums=0)
        self._sample = jax.jit(replay.sample)

    def add(self, rows: Any, valid: Any = None) -> None:
        """Adds one row per environment, of those that `valid` (bool `[n_envs]`) marks.

        Raises:
            ValueError: The rows do not fit the example; the leaf is named.
        """
        self.state = self._add(self.state, rows, valid)

    def sample(self, key: jax.Array) -> Any:
        """Draws `batch_size` rows, uniformly with replacement.

        Raises:
            ValueError: The buffer is empty.
        """
        if len(self) == 0:
            raise ValueError("the buffer is empty: add a row before sampling")
        return self._sample(self.state, key)

    def __len__(self) -> int:
        """Rows held, over all environments (reads the device)."""
        return int(self.state.size.sum())


class OnPolicyBuffer:
    """A rollout that keeps its own state.

    Args:
        row: One example row without an environment axis, as `Rollout.init` takes it.
        length: Steps in each environment, at least 1.
        n_envs: Parallel environments, at least 1.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> buffer = OnPolicyBuffer({"reward": 0.0}, length=1, n_envs=2)
        >>> buffer.add({"reward": jnp.array([1.0, 2.0])})
        >>> buffer.sample()["reward"].tolist(), len(buffer)
        ([[1.0, 2.0]], 0)
    """

    def __init__(self, row: Any, length: int, n_envs: int) -> None:
        self._rollout = rollout_storage(length, n_envs)
        self.state = self._rollout.init(row)
        self._add = jax.jit(self._rollout.add, donate_argnums=0)

    @property
    def is_full(self) -> bool:
        """Whether every environment has `length` rows (reads the device)."""
        return bool(self._rollout.is_full(self.state))

    def add(self, rows: Any, valid: Any = None) -> None:
        """Adds one row per environment, of those that `valid` (bool `[n_envs]`) marks.

        Raises:
            ValueError: The rows do not fit the example; the leaf is named.
        """
        self.state = self._add(self.state, rows, valid)

    def sample(self, key: jax.Array | None = None) -> Any:
        """Hands out the whole rollout, leaves `[length, n_envs, ...]`, and empties it.

        Args:
            key: Not used: there is nothing to draw. Here so that both buffers have
                one face.

        Raises:
            ValueError: The rollout is not full yet.
        """
        del key
        if not self.is_full:
            raise ValueError("the rollout is not full: add rows until is_full")
        rows = jax.tree.map(lambda column: column.copy(), self.state.data)
        self.state = self._rollout.clear(self.state)
        return rows

    def __len__(self) -> int:
        """Rows held, over all environments (reads the device)."""
        return int(self.state.size.sum())
