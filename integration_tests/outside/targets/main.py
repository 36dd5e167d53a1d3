"""λ-returns of a random walk in numpy: nothing here is compiled or learned by Kitae."""

from importlib import metadata

import numpy as np

from kitae.timesteps import compute_lambda_returns

N_STEPS, N_WALKS, GAMMA = 20, 5, 0.9
rng = np.random.default_rng(0)
rewards = rng.normal(size=(N_STEPS, N_WALKS)).astype(np.float32)
values = rng.normal(size=(N_STEPS, N_WALKS)).astype(np.float32)
discounts = np.full_like(rewards, GAMMA)
discounts[-1] = 0.0

returns = compute_lambda_returns(rewards, discounts, values, 1.0)

expected, following = np.zeros_like(rewards), np.zeros(N_WALKS)
for t in reversed(range(N_STEPS)):
    following = expected[t] = rewards[t] + discounts[t] * following
np.testing.assert_allclose(returns, expected, rtol=1e-5, atol=1e-5)

print(*sorted(entry.metadata["Name"] for entry in metadata.distributions()))
