from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules.modules import init_params


class Recorder(nn.Module):
    """Keeps the shapes and dtypes that each trace of the module sees."""

    size: int = 3
    seen: ClassVar[list] = []

    @nn.compact
    def __call__(self, *inputs):
        self.seen.append([(x.shape, str(x.dtype)) for x in inputs])
        flat = [x.reshape(x.shape[0], -1).astype(jnp.float32) for x in inputs]
        return nn.Dense(self.size)(jnp.concatenate(flat, axis=-1))


class Listed(nn.Module):
    scale: np.ndarray

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x * self.scale[None])


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def seen():
    Recorder.seen.clear()
    return Recorder.seen


def test_the_parameters_fit_the_module(key):
    module = nn.Dense(3)
    params = init_params(key, module, [(4,)])
    assert list(params) == ["params"]
    assert params["params"]["kernel"].shape == (4, 3)
    for n in (1, 7):
        assert module.apply(params, jnp.ones((n, 4))).shape == (n, 3)


def test_the_values_are_flaxs(key):
    expected = nn.Dense(3).init(key, jnp.zeros((1, 4)))
    params = init_params(key, nn.Dense(3), [(4,)])
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_key_decides(key):
    kernels = [
        init_params(k, nn.Dense(3), [(4,)])["params"]["kernel"]
        for k in (key, jax.random.key(0), jax.random.key(1))
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    legacy = init_params(jax.random.PRNGKey(0), nn.Dense(3), [(4,)])
    np.testing.assert_array_equal(legacy["params"]["kernel"], kernels[0])


@pytest.mark.parametrize("module", [nn.Dense(3), Listed(np.ones(4, np.float32))])
def test_within_another_program_the_values_are_the_same(key, module):
    def init(key):
        return init_params(key, module, [(4,)])

    expected = init(key)
    within = jax.jit(init)(key)
    of_many = jax.tree.map(lambda x: x[0], jax.vmap(init)(key[None]))
    for found in (within, of_many):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_inputs_have_a_batch_axis_and_their_dtype(key, seen):
    image = jax.ShapeDtypeStruct((8, 8, 3), jnp.uint8)
    init_params(key, Recorder(), [image, [2], (np.int64(5),), ()])
    expected = [(1, 8, 8, 3), (1, 2), (1, 5), (1,)]
    dtypes = ["uint8", "float32", "float32", "float32"]
    assert seen == [list(zip(expected, dtypes, strict=True))]


def test_an_equal_module_is_not_compiled_again(key, seen):
    init_params(key, Recorder(size=11), [(4,)])
    init_params(jax.random.key(1), Recorder(size=11), [(4,)])
    assert len(seen) == 1
    init_params(key, Recorder(size=12), [(4,)])
    init_params(key, Recorder(size=11), [(5,)])
    assert len(seen) == 3


def test_a_module_that_cannot_be_hashed(key):
    params = init_params(key, Listed(np.ones(4, np.float32)), [(4,)])
    assert params["params"]["Dense_0"]["kernel"].shape == (4, 2)


def test_many_seeds_at_once(key):
    keys = jax.random.split(key, 3)
    params = jax.vmap(lambda k: init_params(k, nn.Dense(2), [(4,)]))(keys)
    alone = init_params(keys[1], nn.Dense(2), [(4,)])
    np.testing.assert_array_equal(
        params["params"]["kernel"][1], alone["params"]["kernel"]
    )


def test_the_table_is_printed_on_request(key, capsys):
    init_params(key, Recorder(), [(4,)])
    assert capsys.readouterr().out == ""
    init_params(key, Recorder(), [(4,)], True)
    table = capsys.readouterr().out
    assert "Recorder" in table
    assert "Dense_0" in table
    assert "Total Parameters: 15" in table
    assert "\x1b" not in table


def test_other_variables_are_refused(key):
    module = nn.BatchNorm(use_running_average=False)
    with pytest.raises(ValueError, match=r"BatchNorm.*\['batch_stats'\]"):
        init_params(key, module, [(4,)])


@pytest.mark.parametrize(
    "shapes, error, match",
    [
        ((4,), TypeError, r"input_shapes\[0\] must be a shape.*\[\(4,\)\]"),
        ([None], TypeError, r"input_shapes\[0\] must be a shape"),
        (4, TypeError, "input_shapes must be a list"),
        ("4", TypeError, "input_shapes must be a list"),
        ([], ValueError, "one shape for each input"),
        ([(4,), (0,)], ValueError, r"input_shapes\[1\] must be at least 1, got 0"),
        ([(4.0,)], TypeError, r"input_shapes\[0\] must be an int"),
    ],
)
def test_shapes_that_are_refused(key, shapes, error, match):
    with pytest.raises(error, match=match):
        init_params(key, nn.Dense(3), shapes)


def test_other_arguments_that_are_refused(key):
    dense, shapes = nn.Dense(3), [(4,)]
    with pytest.raises(TypeError, match="key must be a jax random key, got 0"):
        init_params(0, dense, shapes)  # pyright: ignore
    with pytest.raises(TypeError, match="got a float32 array"):
        init_params(jnp.zeros(2), dense, shapes)
    with pytest.raises(ValueError, match=r"one random key, got the shape \(3,\)"):
        init_params(jax.random.split(key, 3), dense, shapes)
    with pytest.raises(TypeError, match="module must be"):
        init_params(key, nn.Dense, shapes)  # pyright: ignore
    with pytest.raises(TypeError, match="tabulate must be a bool"):
        init_params(key, dense, shapes, None)  # pyright: ignore


def test_an_input_may_be_a_tree(key, seen):
    class Joined(nn.Module):
        @nn.compact
        def __call__(self, tree, other):
            return Recorder()(tree["a"], *tree["b"], other)

    spec = {
        "b": (jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((3,), bool)),
        "a": jax.ShapeDtypeStruct((2,), jnp.uint8),
    }
    params = init_params(key, Joined(), [spec, (4,)])
    shapes = [(1, 2), (1,), (1, 3), (1, 4)]
    dtypes = ["uint8", "int32", "bool", "float32"]
    assert seen == [list(zip(shapes, dtypes, strict=True))]
    assert params["params"]["Recorder_0"]["Dense_0"]["kernel"].shape == (10, 3)


def test_an_equal_tree_is_not_compiled_again(key):
    seen = []

    class Sum(nn.Module):
        size: int = 1

        @nn.compact
        def __call__(self, tree):
            seen.append(None)
            return nn.Dense(self.size)(tree["a"] + tree["b"])

    def spec():
        leaf = jax.ShapeDtypeStruct((2,), jnp.float32)
        return {"a": leaf, "b": leaf}

    init_params(key, Sum(), [spec()])
    init_params(key, Sum(), [spec()])
    assert len(seen) == 1


@pytest.mark.parametrize("item", [{"a": (4,)}, {}, {"a": None}, [(4,), (3,)]])
def test_trees_that_are_refused(key, item):
    with pytest.raises(TypeError, match=r"input_shapes\[0\] must be"):
        init_params(key, nn.Dense(3), [item])
    leaf = jax.ShapeDtypeStruct((0,), jnp.float32)
    with pytest.raises(ValueError, match=r"input_shapes\[0\] must be at least 1"):
        init_params(key, nn.Dense(3), [{"a": leaf}])
