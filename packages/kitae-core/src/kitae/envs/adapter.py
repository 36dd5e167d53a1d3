"""What the adapters of other families of JAX environments have in common."""

import importlib
import re
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box


class StepState(NamedTuple):
    """What a step of another family gave, kept until a `FuncEnv` is asked for it.

    Attributes:
        inner: The family's own state.
        observation: As the observation space has it.
        reward: float32 scalar, of the step that led here.
        terminated: bool scalar, the episode ended here.
        truncated: bool scalar, the episode was cut off here.
    """

    inner: Any
    observation: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class StepFuncEnv(FuncEnv):
    """A `FuncEnv` whose transition gives everything at once.

    A subclass sets the spaces, and makes states in `initial` and `transition`.
    """

    def observation(self, state: StepState, rng: Any, params: Any = None) -> Any:
        """Returns what is seen in this state."""
        return state.observation

    def reward(
        self,
        state: StepState,
        action: Any,
        next_state: StepState,
        rng: Any,
        params: Any = None,
    ) -> jax.Array:
        """Returns the reward of the step that led to `next_state`."""
        return next_state.reward

    def terminal(self, state: StepState, rng: Any, params: Any = None) -> jax.Array:
        """Returns whether the episode ended here."""
        return state.terminated

    def truncated(self, state: StepState, rng: Any, params: Any = None) -> jax.Array:
        """Returns whether the episode was cut off here."""
        return state.truncated


def first_state(inner: Any, observation: Any) -> StepState:
    """Returns the state in which an episode begins."""
    return next_state(inner, observation, 0.0, False, False)


def next_state(
    inner: Any, observation: Any, reward: Any, terminated: Any, truncated: Any
) -> StepState:
    """Returns the state to which a step led.

    Raises:
        TypeError: The reward or a flag is not one number.
    """
    scalars = {"reward": reward, "terminated": terminated, "truncated": truncated}
    for name, value in scalars.items():
        if jnp.size(value) != 1:
            raise TypeError(
                f"{name} must be one number per environment, got shape "
                f"{list(jnp.shape(value))}"
            )
    return StepState(
        inner,
        observation,
        jnp.reshape(jnp.asarray(reward, jnp.float32), ()),
        jnp.reshape(jnp.asarray(terminated, bool), ()),
        jnp.reshape(jnp.asarray(truncated, bool), ()),
    )


def family(
    package: str, since: tuple[int, int], *, extra: str | None = None
) -> ModuleType:
    """Imports the package of a family, which an extra installs.

    Args:
        package: Its name.
        since: Its first version, major and minor, that is as the adapter expects.
        extra: The extra's name. Default: the package's.

    Raises:
        ImportError: It is not installed, too old, or lacks something itself.
    """
    install = f'pip install "kitae-core[{extra or package}]"'
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ImportError(f"{package} is not installed: {install}") from None
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < since:
        raise ImportError(
            f"{package} {version} has another interface than {package} "
            f"{since[0]}.{since[1]} and later, which Kitae takes: {install}"
        )
    try:
        return importlib.import_module(package)  # noqa: TID251 (ours, not read)
    except ImportError as error:
        raise ImportError(
            f"{package} cannot be imported ({error}): {install}"
        ) from error


def box(low: Any, high: Any, shape: tuple[int, ...], dtype: Any, source: Any) -> Box:
    """Returns the `Box` with these bounds, dtype and shape.

    Args:
        low: Lower bounds, of a shape that fits `shape`.
        high: Upper bounds.
        shape: Of the elements.
        dtype: Of the elements.
        source: The space or spec this is made from, to be named in an error.

    Raises:
        ValueError: No `Box` has such bounds or such a dtype.
    """
    dtype = np.dtype(dtype)
    try:
        bounds = [np.array(np.broadcast_to(np.asarray(b), shape)) for b in (low, high)]
        if dtype.kind == "f":
            bounds = [bound.astype(dtype) for bound in bounds]
        return Box(*bounds, shape=tuple(shape), dtype=dtype.type)
    except (ValueError, TypeError) as error:
        raise unconvertible(source, str(error)) from error


def unconvertible(source: Any, why: str) -> ValueError:
    """Returns the error that says which space cannot be converted."""
    return ValueError(f"no Gymnasium space is as {source!r}: {why}")
