"""Adam as agents use it: annealed, and with gradients clipped by their norm."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from kitae.modules._checks import finite_float, positive_float, positive_int

_KINDS = {"adam": optax.adam, "radam": optax.radam}


def make_optimizer(
    learning_rate: float,
    *,
    annealing_steps: int | None = None,
    end_learning_rate: float = 0.0,
    max_grad_norm: float | None = None,
    eps: float = 1e-8,
    flatten: bool = False,
    kind: Literal["adam", "radam"] = "adam",
) -> optax.GradientTransformation:
    """Adam with linear annealing and clipping by the global norm.

    With `annealing_steps = n`, update `k` of `n` (from 0) uses the rate
    `learning_rate + (end_learning_rate - learning_rate) * k / (n - 1)`: the first
    uses `learning_rate` and the last exactly `end_learning_rate`, as does every
    update after it. So with the default end of 0 the last update changes nothing.
    With `n = 1` the only update uses `learning_rate`.

    Clipping comes before Adam (Kingma and Ba, 2015, Algorithm 1): when the norm of
    all gradients together is above `max_grad_norm`, they are scaled down to it
    (Pascanu et al., 2013, Algorithm 1).

    Args:
        learning_rate: Step size of Adam, greater than 0.
        annealing_steps: Number of gradient updates that will be made, at least 1.
            None: the rate is constant.
        end_learning_rate: Rate of the last update, in [0, learning_rate]. Only with
            `annealing_steps`.
        max_grad_norm: Largest global norm of the gradients, greater than 0. None: no
            clipping.
        eps: Added to the denominator of Adam, greater than 0.
        flatten: Keep Adam's moments as one vector. The updates are the same up to
            rounding. For a small network on a CPU, clipping then costs almost
            nothing; a large one trains slower. All parameters must share one dtype.
        kind: "adam", or "radam" for rectified Adam (Liu et al., 2020, Algorithm 2), as
            PQN uses it (Gallici et al., 2024): its first updates follow the mean of
            the gradients alone, then a factor below 1 takes the place of a warm-up.
            As its authors' code and optax do, it rectifies from a length of the
            average of 5 on, where the paper has 4.

    Returns:
        An optax gradient transformation.

    Raises:
        TypeError: If an argument has another type; bools are not numbers.
        ValueError: If an argument is outside its range or not finite, if `kind` is
            unknown, or if `end_learning_rate` is given without `annealing_steps`.

    Examples:
        >>> import jax.numpy as jnp
        >>> tx = make_optimizer(0.1, annealing_steps=3, max_grad_norm=1.0)
        >>> params = {"w": jnp.ones(())}
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     updates, state = tx.update({"w": jnp.ones(())}, state, params)
        ...     print(f"{updates['w']:.3f}")
        -0.100
        -0.050
        -0.000
    """
    if not isinstance(flatten, bool):
        raise TypeError(f"flatten must be a bool, got {flatten!r}")
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {sorted(_KINDS)}, got {kind!r}")
    rate = _learning_rate(learning_rate, annealing_steps, end_learning_rate)
    tx = _KINDS[kind](rate, eps=positive_float("eps", eps))
    if max_grad_norm is not None:
        max_norm = positive_float("max_grad_norm", max_grad_norm)
        tx = optax.chain(optax.clip_by_global_norm(max_norm), tx)
    return optax.flatten(tx) if flatten else tx


def _learning_rate(
    start: float, annealing_steps: int | None, end: float
) -> float | optax.Schedule:
    start = positive_float("learning_rate", start)
    end = finite_float("end_learning_rate", end)
    if not 0.0 <= end <= start:
        raise ValueError(
            f"end_learning_rate must be in [0, learning_rate = {start}], got {end}"
        )
    if annealing_steps is None:
        if end != 0.0:
            raise ValueError(
                f"end_learning_rate = {end} needs annealing_steps, which is None"
            )
        return start
    n_updates = positive_int("annealing_steps", annealing_steps)
    # n updates span n - 1 intervals; a single update has none, and uses the start.
    n_intervals = max(n_updates - 1, 1)
    slope = (start - end) / n_intervals

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        # Counted from the end in whole numbers: as a fraction of the way, rounding
        # misses the end value, and the rate may come out negative.
        intervals_left = jnp.maximum(n_intervals - jnp.asarray(count), 0)
        return end + slope * intervals_left.astype(jnp.float32)

    return rate
