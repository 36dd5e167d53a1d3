"""Discrete actions as one index, also where an action has several components."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from kitae.modules._checks import leading_axes
from kitae.modules.masks import action_mask

# Above this, a network with an output for each joint action is not the right one.
MAX_JOINT_ACTIONS = 4096


@dataclass(frozen=True)
class DiscreteActions:
    """The actions of a space, numbered from 0; made by `discrete_actions`.

    Attributes:
        nvec: Number of values of each component, in row-major order.
        shape: Shape of one action: `()` for a Discrete space.
    """

    nvec: tuple[int, ...]
    shape: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Number of actions; of joint ones, where there are several components."""
        return math.prod(self.nvec)

    def to_index(self, actions: jax.Array) -> jax.Array:
        """Numbers actions, in row-major order: the last component varies fastest.

        Args:
            actions: `[..., *shape]`, integers from 0 in each component, as an
                `Experience` stores them, whatever the `start` of the space.

        Returns:
            `[...]` int32 in `[0, n)`; -1 for an action out of range where there are
            components, and a Discrete action as it is: compiled code cannot refuse it.

        Raises:
            ValueError: The last axes are not `shape`.
            TypeError: `actions` are not integers.
        """
        actions = _integers("actions", actions)
        lead = leading_axes("actions", actions.shape, self.shape)
        if not self.shape:
            return actions
        components = actions.reshape(*lead, len(self.nvec))
        sizes, strides = _aligned(self.nvec, lead), _aligned(self._strides(), lead)
        valid = ((components >= 0) & (components < sizes)).all(axis=-1)
        index = (components * strides).sum(axis=-1, dtype=jnp.int32)
        return jnp.where(valid, index, -1)

    def from_index(self, index: jax.Array) -> jax.Array:
        """Returns the actions of their numbers, the inverse of `to_index`.

        Args:
            index: `[...]`, integers in `[0, n)`.

        Returns:
            `[..., *shape]` int32, from 0 in each component. An index out of range
            gives -1 in every component, which no environment takes; a Discrete action
            is returned as it is.

        Raises:
            TypeError: `index` is not of integers.
        """
        index = _integers("index", index)
        if not self.shape:
            return index
        lead = index.shape
        sizes, strides = _aligned(self.nvec, lead), _aligned(self._strides(), lead)
        components = index[..., None] // strides % sizes
        valid = (index >= 0) & (index < self.n)
        actions = jnp.where(valid[..., None], components, -1)
        return actions.reshape(*lead, *self.shape)

    def allowed(self, observations: Any) -> jax.Array | None:
        """Reads off the observations which actions are allowed.

        Args:
            observations: In which `kitae.modules.action_mask` finds a mask, or not.

        Returns:
            `[..., n]` bool, or None where all are: see `joint_mask`.
        """
        return self.joint_mask(action_mask(observations))

    def joint_mask(self, mask: jax.Array | None) -> jax.Array | None:
        """Turns the masks of the components into one of the actions.

        Args:
            mask: `[..., sum(nvec)]` bool, the components' masks after one another, True
                where a value is allowed, as Gymnasium gives them; or None.

        Returns:
            `[..., n]` bool: an action is allowed where each of its components is. The
            mask of a Discrete space is returned as it is, and so is None.

        Raises:
            ValueError: The last axis is not `sum(nvec)`.
            TypeError: `mask` is not bool.
        """
        if mask is None:
            return None
        if mask.dtype != jnp.bool_:
            raise TypeError(f"mask must be bool, True where allowed, got {mask.dtype}")
        leading_axes("mask", mask.shape, (sum(self.nvec),))
        values = np.indices(self.nvec).reshape(len(self.nvec), self.n)
        starts = np.cumsum((0, *self.nvec[:-1]))
        return mask[..., values + starts[:, None]].all(axis=-2)

    def _strides(self) -> list[int]:
        return [math.prod(self.nvec[i + 1 :]) for i in range(len(self.nvec))]


def discrete_actions(action_space: spaces.Space) -> DiscreteActions:
    """Numbers the actions of a Discrete or a MultiDiscrete space.

    A MultiDiscrete action becomes one joint action, so that Q-learning over several
    discrete components is exact: the maximum is over their combinations, not over
    each component alone.

    Args:
        action_space: A Discrete space, or a MultiDiscrete one with at most 4,096
            combinations.

    Returns:
        The numbering: frozen and hashable, for a closure or a static argument.

    Raises:
        ValueError: The space is of another kind, or has more combinations.

    Examples:
        >>> import jax.numpy as jnp
        >>> from gymnasium import spaces
        >>> actions = discrete_actions(spaces.MultiDiscrete([2, 3]))
        >>> actions.n, actions.to_index(jnp.array([[0, 2], [1, 0]])).tolist()
        (6, [2, 3])
        >>> actions.from_index(jnp.array([2, 3])).tolist()
        [[0, 2], [1, 0]]
    """
    if isinstance(action_space, spaces.Discrete):
        return DiscreteActions((int(action_space.n),))
    if not isinstance(action_space, spaces.MultiDiscrete):
        raise ValueError(
            f"action_space must be a Discrete or a MultiDiscrete, got {action_space!r}"
        )
    nvec = tuple(int(n) for n in action_space.nvec.flat)
    actions = DiscreteActions(nvec, action_space.nvec.shape)
    if actions.n > MAX_JOINT_ACTIONS:
        raise ValueError(
            f"action_space has {actions.n} joint actions, and the network has an "
            f"output for each: at most {MAX_JOINT_ACTIONS:,} are taken, got "
            f"{action_space!r}"
        )
    return actions


def _integers(name: str, values: jax.Array) -> jax.Array:
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    return values.astype(jnp.int32)


def _aligned(values: Sequence[int], lead: tuple[int, ...]) -> np.ndarray:
    # With as many axes, since rank promotion may be an error in the caller's program.
    return np.asarray(values, np.int32).reshape((1,) * len(lead) + (-1,))
