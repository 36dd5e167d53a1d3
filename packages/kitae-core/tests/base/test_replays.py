"""Agents with another replay than the uniform one."""

import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import Sample, n_step_replay, prioritised_replay, stored_rows


def n_step(config, n_envs, batch_size):
    return n_step_replay(50, n_envs, batch_size, n_steps=3, gamma=0.5)


def prioritised(config, n_envs, batch_size):
    return prioritised_replay(50, n_envs, batch_size, exponent=1.0)


def agent_of_samples(helpers, **added):
    """A `helpers.TableAgent` that learns from samples; its info has `added` too."""

    class Sampling(helpers.TableAgent):
        def _process_factory(self, config):
            process = super()._process_factory(config)

            def of_sample(state, key, sample):
                assert isinstance(sample, Sample)
                index, target = process(state, key, sample.experience)
                # The replay's own discount: γ for each step of the window.
                return index, target, sample.experience.observation[:, 0]

            return of_sample

        def _update_factory(self, config):
            update = super()._update_factory(config)

            def with_priorities(state, key, batch):
                index, target, where = batch
                state, info = update(state, key, (index, target))
                priorities = {name: make(where) for name, make in added.items()}
                return state, info | priorities

            return with_priorities

    return Sampling


@pytest.mark.slow
@pytest.mark.parametrize("replay_factory", [n_step, prioritised])
def test_a_replay_is_given_and_used(helpers, replay_factory):
    added = {"priorities": jnp.ones_like} if replay_factory is prioritised else {}
    env = helpers.count_envs()
    agent = helpers.make_agent(
        env,
        agent_type=lambda name, config: agent_of_samples(helpers, **added)(
            name, config, replay_factory=replay_factory
        ),
    )
    history = agent.train(env, 60)
    assert history.updates > 20
    rows = stored_rows(agent.memory)
    assert (rows.next_observation == rows.observation + 1)[: agent.memory.size[0]].all()
    # What is added is shown, but for the priorities.
    columns = (agent.run_dir / "metrics.csv").read_text().splitlines()[0]
    assert "loss_value" in columns
    assert "priorities" not in columns


def test_priorities_reach_the_rows_they_are_of(helpers):
    """A row's priority is what its observation says: then 2 in 3 are above average."""
    env = helpers.count_envs((200,))
    agent_type = agent_of_samples(helpers, priorities=lambda where: where)
    agent = helpers.make_agent(
        env,
        agent_type=lambda name, config: agent_type(
            name, config, replay_factory=prioritised
        ),
        n_epochs=50,
    )
    agent.train(env, 40)
    leaves = np.asarray(agent.memory.priorities.levels[0])[0, :39]
    observations = np.asarray(stored_rows(agent.memory).observation)[:39, 0, 0]
    # With 50 updates before each step, all rows but the newest were drawn.
    drawn = leaves != leaves.max()
    np.testing.assert_allclose(leaves[drawn], observations[drawn], atol=1e-4)
    assert drawn.sum() > 30


def test_priorities_that_are_missing_are_asked_for(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(
        env,
        agent_type=lambda name, config: agent_of_samples(helpers)(
            name, config, replay_factory=prioritised
        ),
    )
    with pytest.raises(ValueError, match=r"must return info\['priorities'\], got info"):
        agent.train(env, 60)


def test_no_window_reaches_from_one_training_into_the_next(helpers):
    """Ones are paid, 1000 at the first step of a training: sums tell what they span."""
    env = helpers.count_envs((1_000, 1_000))
    agent = helpers.make_agent(
        env,
        agent_type=lambda name, config: agent_of_samples(helpers)(
            name, config, replay_factory=n_step
        ),
    )
    agent.train(env, 20)
    agent.train(env, 20)
    storage = agent.make_storage()
    sample = storage.sample(agent.memory, jnp.array([0, 1], jnp.uint32))
    for seed in range(40):
        sample = storage.sample(agent.memory, jnp.array([0, seed], jnp.uint32))
        before = np.asarray(sample.experience.observation)[:, 0]
        after = np.asarray(sample.experience.next_observation)[:, 0]
        steps = np.round(np.log(sample.discount) / np.log(0.5))
        # A reset adds 100 to the count: no window spans one.
        np.testing.assert_array_equal(after - before, steps)
