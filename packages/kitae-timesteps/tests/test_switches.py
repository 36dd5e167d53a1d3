import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.timesteps import _switches, compute_gae

# What marks a function in a compiled program that is one kernel.
ONE_KERNEL = "xla_cpu_small_call"


@pytest.fixture(autouse=True)
def _nothing_compiled():
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a request to XLA's CPU")
def test_advantages_are_the_same_with_and_without_one_kernel(monkeypatch):
    rng = np.random.default_rng(0)
    arrays = rng.random((4, 30, 6), np.float32)
    found = []
    for value in ("", "-one-kernel"):
        monkeypatch.setenv("KITAE_XLA", value)
        jax.clear_caches()
        program = jax.jit(lambda *xs: compute_gae(*xs, 0.95))
        text = program.lower(*arrays).as_text()
        assert (ONE_KERNEL in text) == (value == "")
        found.append(program(*arrays))
    # A kernel may fuse a product with a sum, which rounds once and not twice.
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.usefixtures("tricks_on")
def test_without_the_request_it_is_off_after_one_warning(monkeypatch):
    monkeypatch.setattr(_switches, "xla_request", lambda: None)
    _switches.works.cache_clear()
    with pytest.warns(RuntimeWarning, match=f"'one-kernel'.*{jax.__version__}") as all_:
        found = [_switches.active("one-kernel") for _ in range(2)]
    assert found == [False, False]
    assert len(all_) == 1
    assert compute_gae(*jnp.ones((4, 5, 2)), 0.9).shape == (5, 2)
    _switches.works.cache_clear()


def test_a_name_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setenv("KITAE_XLA", "-one-kernels")
    with pytest.raises(ValueError, match="'-one-kernels'"):
        _switches.active("one-kernel")
