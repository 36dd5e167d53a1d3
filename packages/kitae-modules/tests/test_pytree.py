import dataclasses
from dataclasses import InitVar, dataclass, field
from typing import ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules.pytree import AgentPyTree

T = TypeVar("T")


class Counter(AgentPyTree):
    total: jax.Array
    count: jax.Array
    name: str = field(default="plain", metadata={"static": True})


class Weighted(Counter):
    weights: dict | None = None


UNHASHABLE = r"static field 'name' of Counter must be hashable, got a"


def counter(total=1.0, count=0):
    return Counter(jnp.float32(total), jnp.int32(count))


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path) for path, _ in leaves]


def test_positional_and_keyword_construction():
    state = Counter(1, count=2)
    assert (state.total, state.count, state.name) == (1, 2, "plain")
    assert repr(state) == "Counter(total=1, count=2, name='plain')"
    with pytest.raises(TypeError, match="count"):
        Counter(1)  # pyright: ignore


def test_key_paths_name_the_fields():
    state = Weighted(jnp.ones(()), jnp.zeros(()), weights={"w": jnp.ones(2)})
    assert paths(state) == [".total", ".count", ".weights['w']"]
    assert paths({"state": counter()}) == ["['state'].total", "['state'].count"]


def test_a_compiled_function_assigns_to_fields():
    @jax.jit
    def add(state, x):
        state.total = state.total + x
        state.count += 1
        return state

    before = counter()
    after = add(add(before, 2.0), 3.0)
    assert type(after) is Counter
    assert (after.total.item(), after.count.item(), after.name) == (6.0, 2, "plain")
    assert (before.total.item(), before.count.item()) == (1.0, 0)


def test_an_uncompiled_function_assigns_to_the_callers_instance():
    state = counter()
    state.total = 7
    assert state.total == 7


def test_grad_vmap_and_scan():
    def loss(state):
        return state.total**2

    grads = jax.grad(loss, allow_int=True)(counter(3.0))
    assert grads.total.item() == 6.0

    totals = jax.vmap(loss)(Counter(jnp.arange(3.0), jnp.arange(3)))
    np.testing.assert_array_equal(totals, [0.0, 1.0, 4.0])

    def step(state, x):
        state.total = state.total + x
        return state, state.total

    last, seen = jax.lax.scan(step, counter(0.0), jnp.arange(4.0))
    assert last.total.item() == 6.0
    np.testing.assert_array_equal(seen, [0.0, 1.0, 3.0, 6.0])


def test_static_fields_are_structure_and_not_leaves():
    traces = []

    @jax.jit
    def rename(state):
        traces.append(state.name)
        state.name = state.name.upper()
        return state

    assert len(jax.tree.leaves(counter())) == 2
    assert jax.tree.structure(counter()) == jax.tree.structure(counter(5.0))
    assert rename(counter()).name == "PLAIN"
    rename(counter(5.0))
    assert traces == ["plain"]
    rename(dataclasses.replace(counter(), name="other"))
    assert traces == ["plain", "other"]


@pytest.mark.parametrize("value", [["a"], {}, np.ones(2), jnp.ones(2)])
def test_static_fields_must_be_hashable(value):
    with pytest.raises(TypeError, match=UNHASHABLE):
        Counter(1, 2, value)
    state = counter()
    with pytest.raises(TypeError, match=UNHASHABLE):
        state.name = value


def test_a_subclass_of_a_subclass():
    state = Weighted(jnp.ones(()), jnp.zeros(()), "sub", {"w": jnp.ones(2)})
    doubled = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s))(state)
    assert type(doubled) is Weighted
    assert doubled.name == "sub"
    assert doubled.weights["w"].tolist() == [2.0, 2.0]
    doubled.weights = None

    class Described(Weighted):
        def describe(self):
            return f"{self.name} {self.total}"

    assert Described(1, 2).describe() == "plain 1"
    assert paths(Described(1, 2)) == [".total", ".count"]


def test_nested_generic_and_string_annotations():
    class Pair(AgentPyTree, Generic[T]):
        first: "T"
        second: "jax.Array"
        limit: "ClassVar[int]" = 3

    pair = Pair[Counter](counter(), jnp.ones(()))
    assert paths(pair) == [".first.total", ".first.count", ".second"]
    assert jax.jit(lambda p: p)(pair).first.name == "plain"


def test_instances_compare_by_identity():
    first, second = counter(), counter()
    assert first == first
    assert first != second
    assert len({first, second}) == 2


def test_a_name_which_is_no_field_is_refused():
    class Limited(AgentPyTree):
        total: int
        limit: ClassVar[int] = 3
        plain = 4

        @property
        def half(self):
            return self.total / 2

        @half.setter
        def half(self, value):
            self.total = 2 * value

    state = Limited(1)
    for name in ("totals", "limit", "plain"):
        with pytest.raises(AttributeError, match=f"Limited has no field '{name}'"):
            setattr(state, name, 1)
    state.half = 8
    assert state.total == 16


def test_a_class_without_fields_is_refused():
    with pytest.raises(TypeError, match="Empty has no annotated field"):

        class Empty(AgentPyTree):
            total = 0


def test_constructors_that_jax_would_call_again_are_refused():
    with pytest.raises(TypeError, match="Own must not define __init__"):

        class Own(AgentPyTree):
            total: int

            def __init__(self, total):
                self.total = total + 1

    with pytest.raises(TypeError, match="Post must not define __post_init__"):

        class Post(AgentPyTree):
            total: int

            def __post_init__(self):
                self.total += 1

    class Mixin:
        def __post_init__(self):
            pass

    with pytest.raises(TypeError, match="Mixed must not define __post_init__"):

        class Mixed(AgentPyTree, Mixin):
            total: int


def test_fields_that_the_constructor_does_not_take_are_refused():
    with pytest.raises(TypeError, match=r"Late takes \['total'\]"):

        class Late(AgentPyTree):
            total: int
            late: int = field(default=0, init=False)

    with pytest.raises(TypeError, match=r"Initial takes \['total', 'seed'\]"):

        class Initial(AgentPyTree):
            total: int
            seed: InitVar[int] = 0


def test_fields_of_a_plain_dataclass_mixin_are_included():
    @dataclass
    class Mixin:
        extra: int

    class Mixed(AgentPyTree, Mixin):
        total: int

    assert jax.tree.leaves(Mixed(1, 2)) == [1, 2]


def test_type_checkers_are_told_about_the_constructor():
    transform = AgentPyTree.__dataclass_transform__
    assert transform["eq_default"] is False
    assert dataclasses.field in transform["field_specifiers"]
