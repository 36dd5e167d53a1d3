"""What one package names and another knows, though neither may import the other."""

import jax
import jax.numpy as jnp
import pytest

import kitae.buffer._switches as of_buffer
import kitae.timesteps._switches as of_timesteps
from kitae.base.xla import hoisting, switches
from kitae.base.xla.jaxprs import KERNEL
from kitae.timesteps import compute_lambda_returns


@pytest.mark.usefixtures("tricks_on")
def test_a_loop_that_is_split_keeps_a_target_in_one_kernel():
    def body(constants, carry, number):
        return compute_lambda_returns(carry, carry, carry, 0.9), number

    carry, number = jnp.ones((5, 2)), jnp.uint32(0)
    parts = hoisting.split(body, (), carry, number)
    step = jax.make_jaxpr(parts.step)((), carry, number, []).jaxpr
    called = [eqn.params["name"] for eqn in step.eqns if "name" in eqn.params]
    assert called == [KERNEL]


@pytest.mark.parametrize("leaf", [of_buffer, of_timesteps])
def test_all_packages_read_the_same_switches(leaf):
    assert (leaf.VARIABLE, leaf.NAMES) == (switches.VARIABLE, switches.NAMES)
    for value in ("", "off", "-hoist", "-threads, -one-kernel"):
        assert leaf.switched_off(value) == switches.switched_off(value)
    for value in ("on", "hoist", "-hoists", "-threads,", "OFF"):
        with pytest.raises(ValueError, match="must be 'off'") as found:
            leaf.switched_off(value)
        with pytest.raises(ValueError, match="must be 'off'") as expected:
            switches.switched_off(value)
        assert str(found.value) == str(expected.value)
