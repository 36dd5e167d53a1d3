import jax
import pytest

from kitae.base.xla import compiling


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of XLA's CPU")
def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    known = {"xla_cpu_enable_fast_math": False}
    options = {"xla_cpu_none_such": False, **known}
    monkeypatch.setattr(compiling, "QUICKLY", options)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_thunk_runtime=true")
    assert compiling.quickly_compiled() == known
    assert jax.jit(lambda x: x + 1, compiler_options=known)(1) == 2
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert compiling.quickly_compiled() == {}
