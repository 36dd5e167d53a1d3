"""What one package names and another knows, though neither may import the other."""

import jax
import jax.numpy as jnp

from kitae.base.xla import hoisting
from kitae.base.xla.jaxprs import KERNEL
from kitae.timesteps import compute_lambda_returns


def test_a_loop_that_is_split_keeps_a_target_in_one_kernel():
    def body(constants, carry, number):
        return compute_lambda_returns(carry, carry, carry, 0.9), number

    carry, number = jnp.ones((5, 2)), jnp.uint32(0)
    parts = hoisting.split(body, (), carry, number)
    step = jax.make_jaxpr(parts.step)((), carry, number, []).jaxpr
    called = [eqn.params["name"] for eqn in step.eqns if "name" in eqn.params]
    assert called == [KERNEL]
