"""Splitting a training over devices along the environments."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kitae.buffer import Replay, ReplayState

AXIS = "env"


class Devices:
    """Devices in a row, each of which has its share of the environments.

    Parameters and all else in the agent's state is on every device. A share's rows
    stay on its device, and its part of a batch is drawn there; XLA adds up what an
    update needs of all parts. With `jax.distributed` the devices may be those of
    several processes.

    Args:
        devices: At least one.
        n_envs: Divided by their number.
        batch_size: Divided by their number.

    Raises:
        ValueError: The number of devices does not divide the environments or the
            batch.
    """

    def __init__(self, devices: Sequence[Any], n_envs: int, batch_size: int) -> None:
        self.n = len(devices)
        for name, value in (("n_envs", n_envs), ("batch_size", batch_size)):
            if value % max(self.n, 1) or not self.n:
                raise ValueError(
                    f"{name} = {value} must be a multiple of the {self.n} devices"
                )
        self.mesh = Mesh(np.array(devices), (AXIS,))
        self.everywhere = NamedSharding(self.mesh, P())
        # Gives every process all of a tree.
        self.gathered = jax.jit(lambda tree: tree, out_shardings=self.everywhere)

    def storage(self, storage: Replay) -> Replay:
        """Returns the storage of all devices, made of the one of each.

        Args:
            storage: For the share of one device.

        Raises:
            ValueError: It is no replay.
        """
        if not isinstance(storage, Replay):
            raise ValueError(
                "devices can share a replay, not the rollout of an on-policy agent"
            )
        self._env_axes = storage.env_axes
        state: Any = jax.tree.map(_split_along, storage.env_axes)

        def sample(mine: ReplayState, key: jax.Array) -> Any:
            share = jax.lax.axis_index(AXIS)
            return storage.sample(mine, jax.random.fold_in(key, share))

        shared = storage._replace(
            add=self._on_each(storage.add, (state, P(AXIS), P(AXIS)), state),
            sample=self._on_each(sample, (state, P()), P(AXIS)),
        )
        if storage.update_priorities is None:
            return shared
        # A row's index counts on the device that drew it, where its priority goes too.
        specs = (state, P(AXIS), P(AXIS))
        update_priorities = self._on_each(storage.update_priorities, specs, state)
        return shared._replace(update_priorities=update_priorities)

    def placed(self, carry: Any) -> Any:
        """Puts what a training carries where it belongs."""
        return jax.tree.map(jax.device_put, carry, self._shardings(carry))

    def constrained(self, carry: Any) -> Any:
        """Keeps it there, within a program."""
        return jax.tree.map(
            jax.lax.with_sharding_constraint, carry, self._shardings(carry)
        )

    def _shardings(self, carry: Any) -> Any:
        def all_leaves(part: Any, spec: P) -> Any:
            return jax.tree.map(lambda _: NamedSharding(self.mesh, spec), part)

        shares = all_leaves(carry, P(AXIS))
        memory = jax.tree.map(
            lambda axis, part: all_leaves(part, _split_along(axis)),
            self._env_axes,
            carry.memory,
        )
        return shares._replace(state=all_leaves(carry.state, P()), memory=memory)

    def _on_each(
        self, function: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            check_vma=False,
        )


def _split_along(axis: int) -> P:
    return P(*[None] * axis, AXIS)
