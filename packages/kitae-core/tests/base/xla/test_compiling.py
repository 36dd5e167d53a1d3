import jax
import pytest

from kitae.base.xla import compiling, switches


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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of XLA's CPU")
@pytest.mark.parametrize("flags, works", [("", False), ("--xla_cpu_none_such=1", True)])
def test_the_trick_fails_where_xla_knows_no_option_and_none_is_set(
    monkeypatch, flags, works
):
    options = {"xla_cpu_none_such": False, "xla_cpu_nor_this": False}
    monkeypatch.setattr(compiling, "QUICKLY", options)
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(switches, "_failures", {})
    compiling.known_options.cache_clear()
    if works:
        assert switches.active("quick-compile")
    else:
        with pytest.warns(RuntimeWarning, match="'quick-compile'.*knows none"):
            assert compiling.quickly_compiled() == {}
    compiling.known_options.cache_clear()
