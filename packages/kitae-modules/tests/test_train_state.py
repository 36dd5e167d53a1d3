import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitae.modules.pytree import AgentPyTree, TrainState


class AgentState(AgentPyTree):
    qvalue: TrainState


def apply_fn(params, x):
    return params["w"] * x + params["b"]


def make_params():
    return {"w": jnp.zeros(3), "b": jnp.zeros(3)}


def make_state(target=True, tx=None):
    params = make_params()
    return TrainState.create(
        apply_fn=apply_fn,
        params=params,
        tx=optax.sgd(1.0) if tx is None else tx,
        target_params=params if target else None,
    )


def ones_like(params):
    return jax.tree.map(jnp.ones_like, params)


def pointers(tree):
    return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}


def test_create_without_a_target():
    state = make_state(target=False)
    assert state.target_params is None
    assert (state.step.dtype, state.step.shape) == (jnp.int32, ())
    assert not state.step.weak_type
    assert paths(state) == [".step", ".params['b']", ".params['w']"]


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path) for path, _ in leaves]


def test_a_target_made_from_the_same_arrays_has_its_own_buffers():
    state = make_state()
    assert jax.tree.structure(state.target_params) == jax.tree.structure(state.params)
    np.testing.assert_array_equal(state.target_params["w"], state.params["w"])
    assert len(pointers(state.params) | pointers(state.target_params)) == 4

    compiled = jax.jit(
        lambda p: TrainState.create(
            apply_fn=apply_fn, params=p, tx=optax.sgd(1.0), target_params=p
        )
    )(make_params())
    assert len(pointers(compiled.params) | pointers(compiled.target_params)) == 4

    params = make_params()
    alias = jax.device_put(params, jax.devices()[0], may_alias=True)
    aliased = TrainState.create(
        apply_fn=apply_fn, params=params, tx=optax.sgd(1.0), target_params=alias
    )
    assert len(pointers(aliased.params) | pointers(aliased.target_params)) == 4


@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("step_size", [1.0, 0.5])
def test_donated_updates(period, step_size):
    @functools.partial(jax.jit, donate_argnums=0)
    def update(state):
        qvalue = state.qvalue.apply_gradients(grads=ones_like(state.qvalue.params))
        state.qvalue = qvalue.update_target(period=period, step_size=step_size)
        return state

    state = AgentState(make_state(tx=optax.sgd(0.1, momentum=0.9)))
    for _ in range(4):
        donated = jax.tree.leaves(state.qvalue.params)
        state = jax.block_until_ready(update(state))
        assert all(leaf.is_deleted() for leaf in donated)
        trees = (state.qvalue.params, state.qvalue.target_params)
        assert len(pointers(trees[0]) | pointers(trees[1])) == 4
    assert np.isfinite(state.qvalue.target_params["w"]).all()


@pytest.mark.parametrize("period", [1, 2])
def test_an_uncompiled_hard_copy_shares_no_buffer(period):
    state = make_state().replace(step=jnp.int32(2)).update_target(period=period)
    assert len(pointers(state.params) | pointers(state.target_params)) == 4


def run(n_updates, jit, **kwargs):
    """Gradients of 1 and a rate of 1: after k updates the parameters are -k."""

    def update(state):
        state = state.apply_gradients(grads=ones_like(state.params))
        return state.update_target(**kwargs)

    update = jax.jit(update) if jit else update
    state, seen = make_state(), []
    for _ in range(n_updates):
        state = update(state)
        seen.append(state.target_params["w"][0].item())
    assert state.params["w"][0].item() == -n_updates
    return seen


@pytest.mark.parametrize("jit", [False, True])
def test_hard_copies(jit):
    assert run(3, jit) == [-1.0, -2.0, -3.0]
    assert run(7, jit, period=3) == [0.0, 0.0, -3.0, -3.0, -3.0, -6.0, -6.0]


@pytest.mark.parametrize("jit", [False, True])
def test_polyak_averages(jit):
    # -1/4; -2/4 - 3/16; -3/4 + 3/4 of that
    assert run(3, jit, step_size=0.25) == [-0.25, -0.6875, -1.265625]
    # -2/4 at step 2, -4/4 + 3/4 of that at step 4
    expected = [0.0, -0.5, -0.5, -1.375, -1.375]
    assert run(5, jit, period=2, step_size=0.25) == expected


def test_scan_over_updates():
    def update(state, _):
        state = state.apply_gradients(grads=ones_like(state.params))
        state = state.update_target(period=2)
        return state, state.target_params["b"][0]

    _, seen = jax.lax.scan(update, make_state(), length=5)
    np.testing.assert_array_equal(seen, [0.0, -2.0, -2.0, -4.0, -4.0])


def test_seeds_with_steps_of_their_own():
    states = jax.vmap(
        lambda step: make_state().replace(step=step, params=ones_like(make_params()))
    )(jnp.array([2, 3, 4], jnp.int32))
    moved = jax.vmap(lambda state: state.update_target(period=2))(states)
    np.testing.assert_array_equal(moved.target_params["w"][:, 0], [1.0, 0.0, 1.0])


def test_the_dtype_of_the_target_stays():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = TrainState.create(
        apply_fn=apply_fn, params=params, tx=optax.sgd(1.0), target_params=params
    )
    for kwargs in ({}, {"step_size": 0.5}, {"step_size": np.float32(0.5), "period": 2}):
        assert state.update_target(**kwargs).target_params["w"].dtype == jnp.bfloat16


def test_updates_are_traced_once():
    traces = []

    @jax.jit
    def update(state):
        traces.append(state.step)
        state = state.apply_gradients(grads=ones_like(state.params))
        return state.update_target(period=2)

    state = make_state(tx=optax.sgd(optax.linear_schedule(0.1, 0.0, 10)))
    for _ in range(5):
        state = update(state)
    assert len(traces) == 1
    assert state.step.item() == 5


@pytest.mark.parametrize(
    "kwargs, error",
    [
        ({"period": 0}, ValueError),
        ({"period": -3}, ValueError),
        ({"period": 2.0}, TypeError),
        ({"period": True}, TypeError),
        ({"step_size": 0.0}, ValueError),
        ({"step_size": 1.01}, ValueError),
        ({"step_size": float("nan")}, ValueError),
        ({"step_size": "1"}, TypeError),
        ({"step_size": True}, TypeError),
        ({"step_size": jnp.float32(0.5)}, TypeError),
    ],
)
def test_arguments_outside_their_range(kwargs, error):
    with pytest.raises(error, match=next(iter(kwargs))):
        make_state().update_target(**kwargs)


def test_update_target_without_a_target():
    with pytest.raises(ValueError, match="target_params is None"):
        make_state(target=False).update_target()


@pytest.mark.parametrize(
    "target, match",
    [
        ({"w": jnp.zeros(3)}, "structure of params"),
        (
            {"w": jnp.zeros((3, 1)), "b": jnp.zeros(3)},
            r"target_params\['w'\].*\[3, 1\]",
        ),
        ({"w": jnp.zeros(3), "b": jnp.zeros(3, jnp.int32)}, r"\['b'\].*int32\[3\]"),
    ],
)
def test_a_target_that_does_not_match(target, match):
    with pytest.raises(ValueError, match=match):
        TrainState.create(
            apply_fn=apply_fn,
            params=make_params(),
            tx=optax.sgd(1.0),
            target_params=target,
        )
    with pytest.raises(ValueError, match=match):
        make_state().replace(target_params=target).update_target()


def test_a_subclass_with_another_field():
    class Scaled(TrainState):
        scale: jax.Array | None = None

    state = Scaled.create(
        apply_fn=apply_fn,
        params=make_params(),
        tx=optax.sgd(1.0),
        target_params=make_params(),
        scale=jnp.ones(()),
    )
    assert type(state.update_target()) is Scaled
    assert paths(state)[-1] == ".scale"


@pytest.mark.parametrize(
    "params",
    [jnp.ones(()), jnp.ones(2), (jnp.ones(2), jnp.ones(3)), [jnp.ones(2)]],
    ids=["scalar", "array", "tuple", "list"],
)
def test_parameters_need_not_be_a_dict(params):
    """A temperature, say, is one number."""
    state = TrainState.create(
        apply_fn=jnp.exp, params=params, tx=optax.sgd(0.25), target_params=params
    )
    for _ in range(2):
        state = jax.jit(TrainState.apply_gradients)(state, grads=ones_like(params))
        state = state.update_target(step_size=0.5)
    # With gradients of 1 the parameters are 1, 0.75 and 0.5, the target's 1, 0.875
    # and 0.6875.
    for leaf in jax.tree.leaves(state.params):
        np.testing.assert_allclose(leaf, 0.5, rtol=1e-6)
    for leaf in jax.tree.leaves(state.target_params):
        np.testing.assert_allclose(leaf, 0.6875, rtol=1e-6)
    assert state.step == 2
