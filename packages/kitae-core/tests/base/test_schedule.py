"""What is planned for many iterations is what each of them would do by itself."""

import numpy as np
import pytest

from kitae.base.algorithm.off_policy import OffPolicySchedule
from kitae.base.algorithm.on_policy import OnPolicySchedule
from kitae.base.algorithm.state import Counters

# Iterations at which trainings stop, and the next one continues.
STOPS = (1, 2, 6, 7, 15, 16, 17, 40)
N_ENVS = 2


def one_by_one(schedule, n_iterations):
    """Returns the iterations with an update, as the step-by-step driver has them."""
    counters, found = Counters(0, 0, 0, np.zeros(N_ENVS, np.int64)), []
    for iteration in range(n_iterations):
        if schedule.overlaps and schedule.due(counters):
            counters, _ = schedule.after_update(counters), found.append(iteration)
        counters = schedule.after_step(counters, np.ones(N_ENVS, bool), N_ENVS)
        if not schedule.overlaps and schedule.due(counters):
            counters, _ = schedule.after_update(counters), found.append(iteration)
    return counters, found


def planned(schedule, stops):
    """Returns the iterations with an update, as plans have them, and the programs."""
    counters, found, programs = Counters(0, 0, 0, np.zeros(N_ENVS, np.int64)), [], set()
    for stop in stops:
        while counters.iteration < stop:
            plan = schedule.plan(counters, stop - counters.iteration)
            update_at = 0 if schedule.overlaps else plan.size - 1
            begins = counters.iteration - plan.done
            updates = [begins + plan.size * i + update_at for i in range(plan.n_groups)]
            run = range(counters.iteration, counters.iteration + plan.n_iterations)
            updates = [i for i in updates if plan.learns and i in run]
            assert len(updates) == plan.n_updates
            found += updates
            programs.add((plan.size, plan.learns))
            counters = schedule.after_iterations(
                counters, plan.n_iterations, plan.n_updates
            )
        assert counters.iteration == stop
    return counters, found, programs


@pytest.mark.parametrize("stops", [STOPS, (40,), range(1, 41)], ids=len)
@pytest.mark.parametrize("start_step", [-1, 13, 20])
@pytest.mark.parametrize("skip_steps", [1, 2, 3, 8, 50])
def test_off_policy(helpers, skip_steps, start_step, stops):
    env = helpers.count_envs()
    changes = {"skip_steps": skip_steps, "start_step": start_step, "n_epochs": 2}
    schedule = OffPolicySchedule(helpers.make_config(env, **changes))
    counters, updates, programs = planned(schedule, stops)
    expected, expected_updates = one_by_one(schedule, 40)
    assert updates == expected_updates
    assert counters[:3] == expected[:3]
    assert programs <= {(1, False), (skip_steps, True)}


@pytest.mark.parametrize("stops", [STOPS, (40,), range(1, 41)], ids=len)
@pytest.mark.parametrize("length", [1, 2, 7, 16, 50])
def test_on_policy(helpers, length, stops):
    changes = {"max_buffer_size": length, "batch_size": N_ENVS, "n_epochs": 2}
    schedule = OnPolicySchedule(helpers.make_config(helpers.count_envs(), **changes))
    counters, updates, programs = planned(schedule, stops)
    expected, expected_updates = one_by_one(schedule, 40)
    assert updates == expected_updates
    assert counters[:3] == expected[:3]
    assert counters.rows.tolist() == expected.rows.tolist()
    assert programs == {(length, True)}
