"""Turning an agent's methods into pure functions."""

import copy
import warnings
from typing import TYPE_CHECKING, Any

import jax

from kitae.base.pytrees import firm

if TYPE_CHECKING:
    from kitae.base.agent import BaseAgent

UNTRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


class ActFn:
    """`act(state, key_data, step, observation) -> (actions, log_probs, key_data)`.

    A method such as `explore` reads `self.state`, `self.step` and, through
    `interact_keys`, `self.key`. It is called on a shallow copy of the agent that
    holds the arguments in their place, and the new key is read back from the copy:
    the agent itself is neither read nor written. It is traced at the first call, once
    a subclass has set its own attributes.

    A method that cannot be traced (it converts an array to numpy, or branches on a
    value) is called as it stands at every step, on such a copy too, after one warning
    that names it: what it assigns to `self` is lost in either case.

    Args:
        agent: Whose method.
        name: The method: `"explore"` or `"select_action"`.
    """

    def __init__(self, agent: "BaseAgent", name: str) -> None:
        self._agent = agent
        self._name = name
        self._compiled = jax.jit(self._pure)
        self._traceable = True

    def __call__(
        self, state: Any, key_data: jax.Array, step: Any, observation: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Acts once."""
        if self._traceable:
            try:
                return self._compiled(state, key_data, step, observation)
            except UNTRACEABLE as error:
                self._give_up(error)
        return self._pure(state, key_data, step, observation)

    def shapes(
        self, state: Any, key_data: jax.Array, step: Any, observation: Any
    ) -> Any:
        """Returns what a call would, as shapes and dtypes."""
        if self._traceable:
            try:
                return self._compiled.eval_shape(state, key_data, step, observation)
            except UNTRACEABLE as error:
                self._give_up(error)
        return self._pure(state, key_data, step, observation)

    def _pure(
        self, state: Any, key_data: jax.Array, step: Any, observation: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        twin = copy.copy(self._agent)
        twin.state, twin.key_data, twin.step = state, key_data, step
        actions, log_probs = getattr(twin, self._name)(observation)
        return firm(actions), firm(log_probs), twin.key_data

    def _give_up(self, error: Exception) -> None:
        self._traceable = False
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"{type(self._agent).__name__}.{self._name} cannot be compiled and is "
            f"called as it is at every step, which is slower: {reason}",
            RuntimeWarning,
            stacklevel=4,
        )
