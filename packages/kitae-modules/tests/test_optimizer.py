import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitae.modules.optimizer import make_optimizer


@pytest.fixture(autouse=True)
def strict_promotion():
    """optax's Adam raises a float to an int32 power: only ranks can be strict."""
    with jax.numpy_rank_promotion("raise"):
        yield


FLATTEN = pytest.mark.parametrize("flatten", [False, True])


def rates(tx, n_updates):
    """The rates that `tx` really applies: Adam divides a constant gradient by itself.

    With gradients of 1, both bias-corrected moments are 1, and an update is minus the
    rate, over 1 + eps.
    """
    params = {"w": jnp.zeros(()), "b": jnp.zeros(2)}
    grads = jax.tree.map(jnp.ones_like, params)

    def update(state, _):
        updates, state = tx.update(grads, state, params)
        return state, -updates["w"]

    return np.asarray(jax.lax.scan(update, tx.init(params), length=n_updates)[1])


@FLATTEN
def test_constant_rate(flatten):
    tx = make_optimizer(0.25, flatten=flatten)
    np.testing.assert_allclose(rates(tx, 3), [0.25, 0.25, 0.25], rtol=1e-4)


@FLATTEN
def test_annealing_over_the_real_number_of_updates(flatten):
    tx = make_optimizer(1.0, annealing_steps=5, flatten=flatten)
    expected = [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]
    seen = rates(tx, 7)
    np.testing.assert_allclose(seen, expected, rtol=1e-4)
    assert seen[4:].tolist() == [0.0, 0.0, 0.0]


def test_annealing_to_another_end():
    tx = make_optimizer(1.0, annealing_steps=3, end_learning_rate=0.5)
    np.testing.assert_allclose(rates(tx, 5), [1.0, 0.75, 0.5, 0.5, 0.5], rtol=1e-4)


def test_the_last_of_many_updates_is_the_end():
    tx = make_optimizer(3e-4, annealing_steps=10_000)
    seen = rates(tx, 10_000)
    assert seen[-1] == 0.0
    assert seen[-2] > 0.0
    np.testing.assert_allclose(seen[0], 3e-4, rtol=1e-4)


def test_annealing_over_one_and_two_updates():
    tx = make_optimizer(1.0, annealing_steps=1, end_learning_rate=0.25)
    np.testing.assert_allclose(rates(tx, 3), [1.0, 0.25, 0.25], rtol=1e-4)
    tx = make_optimizer(1.0, annealing_steps=2)
    np.testing.assert_allclose(rates(tx, 3), [1.0, 0.0, 0.0], rtol=1e-4)


def first_update(gradients, **kwargs):
    params = {"a": jnp.zeros(()), "b": jnp.zeros(1)}
    grads = {"a": jnp.float32(gradients[0]), "b": jnp.float32([gradients[1]])}
    tx = make_optimizer(1.0, eps=1.0, **kwargs)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    return [updates["a"].item(), updates["b"].item()]


@FLATTEN
def test_clipping_comes_before_adam(flatten):
    # Adam's first update with eps = 1 is -g / (|g| + 1), and [3, 4] of norm 5 is
    # clipped at 0.5 to [0.3, 0.4].
    seen = first_update([3.0, 4.0], max_grad_norm=0.5, flatten=flatten)
    np.testing.assert_allclose(seen, [-0.3 / 1.3, -0.4 / 1.4], rtol=1e-4)


def test_gradients_within_the_norm_and_without_clipping():
    for kwargs in ({}, {"max_grad_norm": None}, {"max_grad_norm": 5.1}):
        seen = first_update([3.0, -4.0], **kwargs)
        np.testing.assert_allclose(seen, [-0.75, 0.8], rtol=1e-4)
    assert first_update([0.0, 0.0], max_grad_norm=0.5) == [0.0, 0.0]


def test_adams_moments_hold_the_clipped_gradients():
    params = {"w": jnp.zeros(2)}
    tx = make_optimizer(1.0, max_grad_norm=0.5)
    _, state = tx.update({"w": jnp.array([3.0, 4.0])}, tx.init(params), params)
    (mu,) = optax.tree.get_all_with_path(state, "mu")
    np.testing.assert_allclose(mu[1]["w"], [0.03, 0.04], rtol=1e-4)


def test_updates_are_traced_once():
    traces = []
    tx = make_optimizer(0.1, annealing_steps=10, max_grad_norm=0.5)
    params = {"w": jnp.zeros(2)}

    @jax.jit
    def update(grads, state):
        traces.append(None)
        return tx.update(grads, state, params)

    state = tx.init(params)
    for _ in range(4):
        _, state = update({"w": jnp.ones(2)}, state)
    assert len(traces) == 1


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["learning_rate", "max_grad_norm", "eps"])
def test_values_that_are_refused(name, bad):
    with pytest.raises(ValueError, match=name):
        make_optimizer(**{"learning_rate": 0.1, name: bad})


@pytest.mark.parametrize(
    "name",
    [
        "learning_rate",
        "annealing_steps",
        "end_learning_rate",
        "max_grad_norm",
        "eps",
        "flatten",
    ],
)
@pytest.mark.parametrize("bad", [True, "0.1", [0.1]])
def test_types_that_are_refused(name, bad):
    if name == "flatten" and bad is True:
        bad = 1
    with pytest.raises(TypeError, match=name):
        make_optimizer(**{"learning_rate": 0.1, name: bad})


def test_annealing_arguments_that_are_refused():
    with pytest.raises(ValueError, match="annealing_steps must be at least 1, got 0"):
        make_optimizer(0.1, annealing_steps=0)
    with pytest.raises(TypeError, match="annealing_steps must be an int"):
        make_optimizer(0.1, annealing_steps=10.0)  # pyright: ignore
    for end in (-0.01, 0.11, float("nan")):
        with pytest.raises(ValueError, match="end_learning_rate"):
            make_optimizer(0.1, annealing_steps=3, end_learning_rate=end)
    with pytest.raises(ValueError, match="needs annealing_steps"):
        make_optimizer(0.1, end_learning_rate=0.05)


def radam_twin(gradients, rate):
    """The updates of Liu et al. (2020), Algorithm 2, in numpy, one number at a time."""
    beta1, beta2, mean, square, updates = 0.9, 0.999, 0.0, 0.0, []
    longest = 2 / (1 - beta2) - 1
    for t, gradient in enumerate(gradients, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = mean / (1 - beta1**t)
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        if length >= 5:
            shrink = (length - 4) * (length - 2) * longest
            shrink /= (longest - 4) * (longest - 2) * length
            update *= np.sqrt(shrink) / (np.sqrt(square / (1 - beta2**t)) + 1e-8)
        updates.append(-rate * update)
    return updates


@FLATTEN
def test_rectified_adam(flatten):
    gradients = np.random.default_rng(0).normal(size=12)
    tx = make_optimizer(0.1, kind="radam", flatten=flatten)
    params = {"w": jnp.zeros(())}

    def update(state, gradient):
        updates, state = tx.update({"w": gradient}, state, params)
        return state, updates["w"]

    _, seen = jax.lax.scan(update, tx.init(params), jnp.float32(gradients))
    # In float32 the length loses digits to 1 - beta2^t.
    np.testing.assert_allclose(seen, radam_twin(gradients, 0.1), rtol=1e-2, atol=1e-6)


def test_rectified_adam_is_annealed_and_clipped():
    tx = make_optimizer(1.0, kind="radam", annealing_steps=2, max_grad_norm=0.5)
    params = {"w": jnp.zeros(2)}
    grads = {"w": jnp.array([3.0, 4.0])}
    first, state = tx.update(grads, tx.init(params), params)
    second, _ = tx.update(grads, state, params)
    # The first updates are the mean of the clipped gradients, and the last is nothing.
    np.testing.assert_allclose(first["w"], [-0.3, -0.4], rtol=1e-4)
    np.testing.assert_array_equal(second["w"], np.zeros(2))


@pytest.mark.parametrize("kind", ["sgd", "Adam", None])
def test_kinds_that_are_refused(kind):
    with pytest.raises(ValueError, match=r"kind must be one of \['adam', 'radam'\]"):
        make_optimizer(0.1, kind=kind)
