import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.base import AlgoType, OnPolicyAgent
from kitae.config import on_policy_updates


def make(helpers, env, **changes):
    """An agent that writes down the rows it was shown."""
    seen = []

    class Watches(OnPolicyAgent):
        def __init__(self, run_name, config):
            super().__init__(
                run_name,
                config,
                lambda key, config, **_: {"updates": jnp.int32(0)},
                lambda config: None,
                lambda config: self._process,
                lambda config: self._update,
            )

        def _process(self, state, key, experience):
            jax.debug.callback(
                lambda x: seen.append(np.asarray(x)), experience.observation
            )
            return (experience.observation[..., 0], state["updates"] * jnp.ones((5, 2)))

        def _update(self, state, key, batch):
            state["updates"] = state["updates"] + 1
            return state, {"sum": jnp.sum(batch[0])}

        def explore(self, observation):
            # The action tells how many updates its policy had seen.
            n = observation.shape[0]
            return jnp.full(n, self.state["updates"] % 2), jnp.zeros(n)

        select_action = explore

    config = helpers.make_config(
        env, **{"max_buffer_size": 5, "batch_size": 10, "n_env_steps": 40} | changes
    )
    return Watches("run", config), seen


def full_rollouts(spends_steps_on_resets):
    """Counts by hand how often both columns of five are full within 40 transitions."""
    columns, transitions, t, full = [0, 0], 0, 0, 0
    while transitions < 40:
        for env, length in enumerate((3, 4)):
            if not spends_steps_on_resets or t % (length + 1) != length:
                columns[env] += 1
                transitions += 1
        t += 1
        if min(columns) >= 5:
            columns, full = [0, 0], full + 1
    return full


def test_each_update_sees_one_whole_rollout_of_real_steps(helpers, autoreset_mode):
    env = helpers.count_envs((3, 4), autoreset_mode)
    agent, seen = make(helpers, env)
    history = agent.train(env, 40)
    jax.effects_barrier()
    assert agent.algo_type is AlgoType.ON_POLICY
    assert history.updates == len(seen) == int(agent.state["updates"])
    assert len(seen) == full_rollouts(autoreset_mode.name == "NEXT_STEP")
    for rollout in seen:
        assert rollout.shape == (5, 2, 1)
        steps = np.diff(rollout[:, :, 0], axis=0)
        # One further, or over a reset, where the count jumps by a hundred and one.
        assert np.isin(steps, (1, 101)).all()


def test_every_action_comes_from_the_newest_policy(helpers):
    env = helpers.count_envs((3, 5))
    agent, _ = make(helpers, env)
    agent.train(env, 40)
    # Rollouts of five steps; the update lies between the fifth and the sixth action.
    expected = [(i // 5) % 2 for i in range(20)]
    assert env.envs[0].actions == expected


@pytest.mark.parametrize(
    "n_epochs, batch_size, each", [(1, 10, 1), (3, 5, 6), (2, 2, 10)]
)
def test_updates_are_as_many_as_the_schedule_says(helpers, n_epochs, batch_size, each):
    env = helpers.count_envs((3, 5))
    agent, _ = make(
        helpers, env, n_epochs=n_epochs, batch_size=batch_size, n_env_steps=31
    )
    agent.train(env, 31)
    # Three rollouts of ten rows are full, and learnt from, by step 32.
    assert int(agent.state["updates"]) == agent.updates == 3 * each
    assert on_policy_updates(agent.config) == 3 * each


def test_a_rollout_does_not_run_across_a_new_start(helpers):
    env = helpers.count_envs((30, 30))
    agent, seen = make(helpers, env)
    agent.train(env, 36)  # three rollouts of ten, and three steps each of a fourth
    agent.train(env, 10)
    jax.effects_barrier()
    assert len(seen) == 4
    for rollout in seen:
        assert (np.diff(rollout[:, :, 0], axis=0) == 1).all()


def test_every_row_is_seen_once_in_each_epoch(helpers):
    env = helpers.count_envs((3, 5))
    agent, _ = make(helpers, env, n_epochs=2, batch_size=2, log_frequency=12)
    agent.train(env, 12)
    # The sum over a batch, averaged over two epochs of five, is a tenth of two passes.
    rollout = np.asarray(agent.memory.data.observation)
    (row,) = csv.DictReader((agent.run_dir / "metrics.csv").read_text().splitlines())
    # The sixth vector step has overwritten the first row of each environment.
    first = np.array([0, 100_000])
    total = rollout[1:].sum() + first.sum()
    assert float(row["sum"]) == pytest.approx(2 * total / 10, rel=1e-6)


def test_refuses_batches_that_do_not_divide_the_rollout(helpers):
    env = helpers.count_envs((3, 5))
    with pytest.raises(ValueError, match=r"batch_size = 4 must divide.*5 \* 2 = 10"):
        make(helpers, env, batch_size=4)
    with pytest.raises(ValueError, match="ends before the first rollout"):
        make(helpers, env, n_env_steps=9)
    with pytest.raises(ValueError, match="no meaning for an on-policy agent"):
        make(helpers, env, skip_steps=2)
