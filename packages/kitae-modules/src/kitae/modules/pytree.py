"""States of agents: a mutable pytree of fields, and a train state with a target."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, dataclass_transform

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training import train_state

from kitae.modules._checks import finite_float, positive_int


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
class AgentPyTree:
    """Base class of agent states: annotate the fields, and it is a pytree.

    A subclass becomes a dataclass with positional construction and is registered
    with jax, so that its instances go through `jit`, `grad`, `vmap` and `scan`, and
    its fields appear by name in tree paths. A subclass of a subclass adds its fields
    to the inherited ones.

    Fields may be assigned. A compiled function gets an instance of its own, so what
    it assigns is seen only in what it returns; a function called without `jit`
    changes the caller's instance. Assigning to a name which is not a field raises
    `AttributeError`, since `jit` would lose it without a word.

    A field declared with `dataclasses.field(metadata={"static": True})` is part of
    the tree's structure: it must be hashable (a function, a string, a tuple of
    numbers) and never an array, and a new value compiles the function again.

    jax builds new instances all the time, with placeholders for leaves. So a class
    is refused, with `TypeError`, when it has an `__init__` or `__post_init__` of its
    own, or fields that the constructor does not take (`init=False`, `InitVar`):
    write a function or a class method that builds the state. One without any
    annotated field is refused as well.

    Raises:
        TypeError: When a class cannot be a pytree (above), or when a static field is
            given a value that is not hashable.
        AttributeError: When a name that is not a field is assigned.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> class Counter(AgentPyTree):
        ...     total: jax.Array
        >>> @jax.jit
        ... def add(counter, x):
        ...     counter.total = counter.total + x
        ...     return counter
        >>> add(Counter(jnp.zeros(())), 2.0).total.item()
        2.0
    """

    _fields: ClassVar[frozenset[str]] = frozenset()
    _static_fields: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_constructors(cls)
        dataclasses.dataclass(eq=False)(cls)
        fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
        names = [field.name for field in fields]
        static = [f.name for f in fields if f.metadata.get("static", False)]
        _check_fields(cls, names)
        cls._fields, cls._static_fields = frozenset(names), frozenset(static)
        data = [name for name in names if name not in cls._static_fields]
        jax.tree_util.register_dataclass(cls, data, static)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._fields:
            _refuse_unknown(self, name)
        elif name in self._static_fields:
            _check_hashable(self, name, value)
        object.__setattr__(self, name, value)


def _refuse_constructors(cls: type) -> None:
    for name in ("__init__", "__post_init__"):
        if name in cls.__dict__ or (name == "__post_init__" and hasattr(cls, name)):
            raise TypeError(
                f"{cls.__qualname__} must not define {name}: jax builds instances "
                "with placeholders for leaves, again and again. Write a function or "
                "a class method that builds the state"
            )


def _check_fields(cls: type, names: list[str]) -> None:
    if not names:
        raise TypeError(
            f"{cls.__qualname__} has no annotated field. Declare its fields as "
            "`name: type`"
        )
    arguments = list(inspect.signature(cls).parameters)
    if set(arguments) != set(names):
        raise TypeError(
            f"The constructor of {cls.__qualname__} takes {arguments}, and its fields "
            f"are {names}: a field with init=False, or an InitVar, would be lost each "
            "time jax rebuilds the state"
        )


def _refuse_unknown(tree: AgentPyTree, name: str) -> None:
    if hasattr(getattr(type(tree), name, None), "__set__"):  # a property
        return
    raise AttributeError(
        f"{type(tree).__qualname__} has no field {name!r}, and jit would lose it. Its "
        f"fields are {sorted(tree._fields)}"
    )


def _check_hashable(tree: AgentPyTree, name: str, value: Any) -> None:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"The static field {name!r} of {type(tree).__qualname__} must be hashable, "
            f"got a {type(value).__qualname__}. Arrays belong in fields that are not "
            "static; a list can be a tuple"
        ) from None


class TrainState(train_state.TrainState):
    """Flax's train state, with the parameters of a target network.

    Attributes:
        step: Number of gradient updates so far, int32, shape [].
        apply_fn: The network, called as `apply_fn(params, inputs)`. Static.
        params: Parameters that the optimizer updates.
        tx: The optimizer. Static.
        opt_state: State of the optimizer.
        target_params: Parameters of the target network, in buffers of their own, or
            None for an agent without one.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.ones(2)}
        >>> state = TrainState.create(
        ...     apply_fn=lambda params, x: params["w"] @ x,
        ...     params=params,
        ...     tx=optax.sgd(0.5),
        ...     target_params=params,
        ... )
        >>> state = state.apply_gradients(grads={"w": jnp.ones(2)})
        >>> state = state.update_target(step_size=0.5)
        >>> state.params["w"].tolist(), state.target_params["w"].tolist()
        ([0.5, 0.5], [0.75, 0.75])
    """

    target_params: Any = struct.field(pytree_node=True, default=None)

    @classmethod
    def create(
        cls,
        *,
        apply_fn: Callable[..., Any],
        params: Any,
        tx: optax.GradientTransformation,
        target_params: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Builds the state before the first update.

        Args:
            apply_fn: The network, called as `apply_fn(params, inputs)`.
            params: Parameters, a pytree of arrays; one array is such a tree too.
            tx: The optimizer; its state is initialised for `params`.
            target_params: Parameters of the target network, with the structure,
                shapes and dtypes of `params`; `params` itself for equal networks at
                the start. They are copied. None: no target network.
            **kwargs: Fields that a subclass adds.

        Returns:
            The state, at step 0.

        Raises:
            ValueError: If `target_params` does not match `params`.
        """
        if target_params is not None:
            _check_same_arrays(params, target_params)
            # A leaf shared with `params` would be one buffer donated twice.
            target_params = _copied(target_params)
        fields = {
            "apply_fn": apply_fn,
            "params": params,
            "tx": tx,
            "target_params": target_params,
            **kwargs,
        }
        if isinstance(params, Mapping):
            state = super().create(**fields)
        else:
            state = cls(step=0, opt_state=tx.init(params), **fields)
        # Flax's step is a Python int at first and an array after the first update.
        return state.replace(step=jnp.zeros((), jnp.int32))

    def apply_gradients(self, *, grads: Any, **kwargs: Any) -> Self:
        """Takes one step of the optimizer.

        Args:
            grads: Gradients, with the structure, shapes and dtypes of `params`.
            **kwargs: Other fields to replace.

        Returns:
            A new state, with `step` one higher.
        """
        if isinstance(self.params, Mapping):
            return super().apply_gradients(grads=grads, **kwargs)
        # Flax looks for a key in the gradients, which may be one array.
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params)
        return self.replace(
            step=self.step + 1,
            params=optax.apply_updates(self.params, updates),
            opt_state=opt_state,
            **kwargs,
        )

    def update_target(self, *, period: int = 1, step_size: float = 1.0) -> Self:
        """Moves the target parameters towards the parameters.

        `target <- step_size * params + (1 - step_size) * target`, each time that
        `step` is a multiple of `period`. Call it once after each `apply_gradients`:
        with `period > 1`, calls that skip values of `step` would miss multiples.

        With `step_size = 1` it is the hard copy of Mnih et al. (2015), Algorithm 1
        ("every C steps"); with `period = 1`, the soft update of Lillicrap et al.
        (2016), Algorithm 1, whose tau is `step_size`.

        Args:
            period: Gradient updates between two moves, at least 1.
            step_size: Share of `params` in the new target, in (0, 1]. A Python
                number, not a traced value.

        Returns:
            A new state; only `target_params` differs, and shares no buffer with
            `params`.

        Raises:
            ValueError: If there are no target parameters, if they do not match
                `params`, or if an argument is outside its range.
            TypeError: If an argument has another type.
        """
        period = positive_int("period", period)
        step_size = finite_float("step_size", step_size)
        if not 0.0 < step_size <= 1.0:
            raise ValueError(f"step_size must be in (0, 1], got {step_size}")
        if self.target_params is None:
            raise ValueError(
                "target_params is None: pass target_params to TrainState.create"
            )
        _check_same_arrays(self.params, self.target_params)

        def move(params: Any, target: Any) -> Any:
            if step_size == 1.0:
                return jax.tree.map(jnp.copy, params)
            return jax.tree.map(
                lambda p, t: step_size * p + (1.0 - step_size) * t, params, target
            )

        if period == 1:
            target = move(self.params, self.target_params)
        else:
            # A branch, not a select: most updates then leave the target untouched.
            target = jax.lax.cond(
                self.step % period == 0,
                move,
                lambda _, target: target,
                self.params,
                self.target_params,
            )
        return self.replace(target_params=target)


def _check_same_arrays(params: Any, target: Any) -> None:
    """Refuses target parameters with another structure, shape or dtype."""
    structure, target_structure = jax.tree.structure(params), jax.tree.structure(target)
    if structure != target_structure:
        raise ValueError(
            "target_params must have the structure of params: "
            f"{structure}, got {target_structure}"
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), target_leaf in zip(leaves, jax.tree.leaves(target), strict=True):
        expected, got = jax.typeof(leaf), jax.typeof(target_leaf)
        if (expected.shape, expected.dtype) != (got.shape, got.dtype):
            raise ValueError(
                f"target_params{jax.tree_util.keystr(path)} must be "
                f"{expected.dtype}{list(expected.shape)} as in params, "
                f"got {got.dtype}{list(got.shape)}"
            )


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
