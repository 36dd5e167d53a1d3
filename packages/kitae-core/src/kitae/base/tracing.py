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
    """`act(state, key_data, iteration, step, observation) -> (actions, log_probs)`.

    A method such as `explore` reads `self.state`, `self.step` and, through
    `interact_keys`, `self.key`. It is called on a shallow copy of the agent that
    holds the arguments in their place: the agent itself is neither read nor written.
    The key of an iteration is folded from one key and the iteration's number, so no
    key is passed from one to the next. It is traced at the first call, once a
    subclass has set its own attributes.

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
        self._compiled = jax.jit(self.pure)
        self._traceable = True

    def __call__(self, *args: Any) -> tuple[jax.Array, jax.Array]:
        """Acts once."""
        if self._traceable:
            try:
                return self._compiled(*args)
            except UNTRACEABLE as error:
                self._give_up(error)
        return self.pure(*args)

    def shapes(self, *args: Any) -> Any:
        """Returns what a call would, as shapes and dtypes."""
        if self._traceable:
            try:
                return self._compiled.eval_shape(*args)
            except UNTRACEABLE as error:
                self._give_up(error)
        return self.pure(*args)

    def pure(
        self,
        state: Any,
        key_data: jax.Array,
        iteration: Any,
        step: Any,
        observation: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """Acts once, as part of a program that is being traced."""
        twin = copy.copy(self._agent)
        key = jax.random.wrap_key_data(key_data)
        twin.state, twin.step = state, step
        twin.key = jax.random.fold_in(key, iteration)
        actions, log_probs = getattr(twin, self._name)(observation)
        return firm(actions), firm(log_probs)

    def _give_up(self, error: Exception) -> None:
        self._traceable = False
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"{type(self._agent).__name__}.{self._name} cannot be compiled and is "
            f"called as it is at every step, which is slower: {reason}",
            RuntimeWarning,
            stacklevel=4,
        )
