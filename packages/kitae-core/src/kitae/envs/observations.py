"""What environments show, checked on the host before an agent sees it."""

import warnings
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from kitae.envs.checks import all_of, map_space, not_as_said


def empty_observations(space: gym.Space, n_envs: int) -> Any:
    """Returns zeros `[n_envs, *shape]`, a pytree as `ObservationCheck` gives it.

    Example:
        >>> empty_observations(Box(-1, 1, (4,)), 2).shape
        (2, 4)
    """
    zeros = gym.vector.utils.create_empty_array(space, n_envs, fn=np.zeros)
    return map_space(lambda part, *_: np.array(part), zeros, space)


class ObservationCheck:
    """Copies observations, and refuses what their space or the device cannot hold.

    These are errors: another shape or dtype than the space's, a value that is not
    finite, an index outside a `Discrete` or `MultiDiscrete` space, and a number of 64
    bits that does not fit into the 32 bits which JAX keeps of it. A value outside the
    finite bounds of a `Box` is a warning, once: many environments overstep them.

    Args:
        space: Of one environment.

    Example:
        >>> check = ObservationCheck(Discrete(5))
        >>> check(np.array([4, 77]), n_envs=2, step=3)
        Traceback (most recent call last):
        ...
        ValueError: observation of environment 1 at vector step 3 must be in [0, 4] as \
Discrete(5) says, got 77
    """

    def __init__(self, space: gym.Space) -> None:
        self._space = space
        self._limits: dict[str, _Limits] = {}

    def __call__(
        self,
        raw: Any,
        n_envs: int,
        step: int,
        name: str = "observation",
        envs: np.ndarray | None = None,
    ) -> Any:
        """Returns arrays `[n_envs, *shape]`, a pytree for composite spaces.

        Args:
            raw: What the environments gave.
            n_envs: Rows of `raw`.
            step: The vector step, for errors.
            name: What errors call it.
            envs: `[n_envs]` int, which environments the rows are of. None: all, in
                order.

        Raises:
            ValueError: A part is missing or not allowed; the part, the environment and
                the step are named.

        Warns:
            RuntimeWarning: A value is outside the bounds of its `Box`.
        """

        def checked(raw: Any, space: gym.Space, name: str) -> np.ndarray:
            array = np.array(raw)
            shape = n_envs, *(space.shape or ())
            if array.shape != shape or array.dtype != space.dtype:
                raise not_as_said(name, space, list(shape), array)
            limits = self._limits.get(name)
            if limits is None:
                limits = self._limits[name] = _Limits(space)
            if limits.checked and not all_of(limits.hold(array)):
                limits.explain(array, name, f"at vector step {step}", envs)
            return array

        return map_space(checked, raw, self._space, name)


class _Limits:
    """The range of values of a simple space.

    Attributes:
        checked: Whether an array of the space's dtype can be out of range at all.
    """

    def __init__(self, space: gym.Space) -> None:
        self._space = space
        self._hard: Range = _tightest(_of_device(space.dtype), _of_indices(space))
        self._low, self._high = _tightest(self._hard, _of_box(space))
        self.checked = self._low is not None

    def hold(self, array: np.ndarray) -> np.ndarray:
        """Returns bool as `array`: where a value is in range. NaN is not."""
        return (array >= self._low) & (array <= self._high)

    def explain(
        self, array: np.ndarray, name: str, where: str, envs: np.ndarray | None
    ) -> None:
        """Raises or warns of the first value that is out of range.

        Raises:
            ValueError: It cannot be used.
        """
        wrong, is_hard = ~self.hold(array), False
        low, high = self._hard
        if low is not None:
            beyond = ~((array >= low) & (array <= high))
            if beyond.any():
                wrong, is_hard = beyond, True
        row = int(np.argwhere(wrong)[0][0])
        env = row if envs is None else int(envs[row])
        value = array[row][wrong[row]].flat[0]
        who = f"{name} of environment {env} {where}"
        if not is_hard:
            # From now on these bounds are not looked at: once is enough.
            self._low, self._high = self._hard
            self.checked = self._low is not None
            warnings.warn(
                f"{who} is {value!s}, outside the bounds of {self._space}; it is used "
                "as it is, and further values outside are not reported",
                RuntimeWarning,
                stacklevel=4,
            )
        elif not np.isfinite(value):
            raise ValueError(f"{who} is not finite: {array[row]}")
        elif isinstance(self._space, Box):
            held = jax.dtypes.canonicalize_dtype(array.dtype)
            raise ValueError(
                f"{who} is {value!s}, which {held} does not hold: JAX keeps "
                f"{array.dtype} as {held} unless JAX_ENABLE_X64=1; rescale the "
                "observation, with gymnasium.wrappers.TransformObservation for example"
            )
        else:
            low, high = (
                np.broadcast_to(limit, array.shape[1:])[wrong[row]].flat[0]
                for limit in self._hard
            )
            raise ValueError(
                f"{who} must be in [{low}, {high}] as {self._space} says, got {value!s}"
            )


Range = tuple[Any, Any]
NO_RANGE: Range = None, None


def _of_device(dtype: Any) -> Range:
    """Returns the range of values that stay the same on the device, None: all do."""
    held = jax.dtypes.canonicalize_dtype(dtype)
    if held.kind == "f":
        return dtype.type(np.finfo(held).min), dtype.type(np.finfo(held).max)
    if held == dtype or held.kind not in "iu":
        return NO_RANGE
    return dtype.type(np.iinfo(held).min), dtype.type(np.iinfo(held).max)


def _of_indices(space: gym.Space) -> Range:
    """Returns the range of a space of indices, None: it is another space."""
    if isinstance(space, Discrete | MultiDiscrete):
        n = space.n if isinstance(space, Discrete) else space.nvec
        last = np.asarray(n, space.dtype) - np.asarray(1, space.dtype)
        start = np.asarray(space.start, space.dtype)
        return start, start + last
    if isinstance(space, MultiBinary):
        return np.int8(0), np.int8(1)
    return NO_RANGE


def _of_box(space: gym.Space) -> Range:
    """Returns the bounds of a Box, None: it has none that a value could overstep."""
    if not isinstance(space, Box) or space.dtype.kind not in "iuf":
        return NO_RANGE
    low, high = space.low, space.high
    if space.dtype.kind != "f":
        info = np.iinfo(space.dtype)
        if (low == info.min).all() and (high == info.max).all():
            return NO_RANGE
    return low, high


def _tightest(one: Range, other: Range) -> Range:
    """Returns what both ranges allow."""
    if one[0] is None or other[0] is None:
        return other if one[0] is None else one
    return np.maximum(one[0], other[0]), np.minimum(one[1], other[1])
