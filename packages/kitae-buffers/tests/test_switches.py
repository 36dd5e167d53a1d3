import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import _switches, prioritised_replay, uniform_replay
from kitae.buffer._rows import is_one_cpu

# What marks a function in a compiled program that is one kernel.
ONE_KERNEL = "xla_cpu_small_call"
N_ENVS = 3


def used(prioritised):
    """Returns a function that adds, draws and sets priorities, and its arguments."""
    # So many rows that XLA would share work on them among threads.
    sizes = 20_000, N_ENVS, 32
    if prioritised:
        replay = prioritised_replay(*sizes, exponent=0.6)
    else:
        replay = uniform_replay(*sizes)
    rows = {"x": jnp.arange(4.0 * N_ENVS).reshape(N_ENVS, 4)}

    def run(state, key):
        for _ in range(4):
            state = replay.add(state, rows)
        sample = replay.sample(state, key)
        if prioritised:
            state = replay.update_priorities(state, sample.index, sample.importance)
        return state, sample

    return run, (replay.init({"x": jnp.zeros(4)}), jax.random.key(5))


@pytest.mark.skipif(not is_one_cpu(), reason="tricks for one CPU device")
@pytest.mark.parametrize("prioritised", [False, True])
def test_replays_without_tricks_hold_and_draw_the_same(monkeypatch, prioritised):
    found, texts = [], []
    for value in ("", "-one-kernel", "-drawn-bits", "off"):
        monkeypatch.setenv("KITAE_XLA", value)
        run, args = used(prioritised)
        program = jax.jit(run)
        texts.append(program.lower(*args).as_text())
        assert (ONE_KERNEL in texts[-1]) == (value in ("", "-drawn-bits"))
        found.append(program(*args))
    assert len(set(texts)) == 4
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


@pytest.mark.usefixtures("tricks_on")
def test_without_the_request_one_kernel_is_off_after_one_warning(monkeypatch):
    monkeypatch.setattr(_switches, "xla_request", lambda: None)
    _switches.works.cache_clear()
    with pytest.warns(RuntimeWarning, match=f"'one-kernel'.*{jax.__version__}") as all_:
        found = [_switches.active("one-kernel") for _ in range(2)]
    assert found == [False, False]
    assert len(all_) == 1
    run, args = used(prioritised=True)
    jax.eval_shape(run, *args)
    _switches.works.cache_clear()


def test_a_name_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setenv("KITAE_XLA", "-drawn")
    with pytest.raises(ValueError, match="'-drawn'"):
        _switches.active("drawn-bits")
