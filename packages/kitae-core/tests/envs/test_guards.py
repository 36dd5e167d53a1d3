"""Real faults in real processes: each is killed, hangs or raises by itself.

What a worker needs is made within functions, since it cannot import this file.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from kitae.envs import HostEnv, as_vector_env, guards, make_vec_env
from kitae.envs.checks import checked_member
from kitae.envs.workers import CheckedEnv

SEED = np.random.SeedSequence(0)
SPACE = Box(-1.0, 1.0, (4,), np.float32)
ZEROS = np.zeros(4, np.float32)


def member(step=lambda t: None, reset=lambda: None, make=lambda: None, space=SPACE):
    """Makes an environment's maker; what is given may return an observation."""

    class Member(gym.Env):
        observation_space, action_space = space, Discrete(2)

        def __init__(self, render_mode=None):
            self.render_mode = render_mode
            self.t = 0
            make()

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.seen(reset()), {}

        def step(self, action):
            self.t += 1
            return self.seen(step(self.t)), 0.0, False, False, {}

        def seen(self, observation):
            return np.zeros(4, np.float32) if observation is None else observation

        @property
        def knows_jax(self):
            return "jax" in sys.modules

    return Member


def die(code=None):
    """At the third step, or at once where there is no step."""

    def at(t=3):
        if t == 3:
            os.kill(os.getpid(), signal.SIGKILL) if code is None else os._exit(code)

    return at


def sleep(seconds):
    return lambda t=3: time.sleep(seconds) if t == 3 else None


def loop():
    def at(t):
        while t == 3:
            pass

    return at


@contextmanager
def host(*members, context="forkserver", worker_timeout=30.0, **kwargs):
    vector = AsyncVectorEnv(members, context=context, **kwargs)
    env = RecordEpisodeStatistics(vector)
    try:
        yield HostEnv(env, worker_timeout)
    finally:
        start = time.monotonic()
        env.close()
        left = [process for process in vector.processes if process.is_alive()]
        for process in left:
            process.kill()
        assert not left
        assert time.monotonic() - start < 5


def play(env, n_steps=5):
    env.reset(SEED)
    for _ in range(n_steps):
        env.step(np.zeros(env.n_envs, int))


@contextmanager
def error_within(seconds, message, kind=RuntimeError):
    start = time.monotonic()
    with pytest.raises(kind, match=message) as caught:
        yield caught
    assert time.monotonic() - start < seconds


@pytest.fixture(autouse=True, scope="module")
def _imported_once():
    """By the server that forks the workers, if it has not been started yet."""
    multiprocessing.set_forkserver_preload(["gymnasium", "kitae.envs.workers"])


@pytest.fixture(autouse=True)
def _little_grace(monkeypatch):
    monkeypatch.setattr(guards, "GRACE_SECONDS", 0.2)


KILLED = "^environment 1's worker process was killed by SIGKILL at "


def test_a_worker_killed_between_steps_is_named():
    with host(member(), member(), member()) as env:
        play(env)
        os.kill(env.env.unwrapped.processes[1].pid, signal.SIGKILL)
        with error_within(5, KILLED + "vector step 5$"):
            env.step(np.zeros(3, int))


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_worker_killed_in_a_step_is_named(shared_memory):
    members = [member(), member(die()), member()]
    with (
        host(*members, shared_memory=shared_memory) as env,
        error_within(5, KILLED + "vector step 2$"),
    ):
        play(env)


def test_the_error_of_a_killed_worker_holds_no_buffer_of_its_pipe():
    with host(member(), member()) as env:
        play(env)
        process = env.env.unwrapped.processes[1]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with error_within(5, KILLED + "vector step 5$") as caught:
            env.step(np.zeros(2, int))
    assert caught.value.__context__ is None


def test_a_worker_whose_sentinel_was_read_has_ended_all_the_same(monkeypatch):
    """The fork server writes an exit code there, and closes it a moment later."""
    reader, writer = multiprocessing.Pipe()
    with host(member(), member()) as env, closing(reader), closing(writer):
        play(env)
        process = env.env.unwrapped.processes[1]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        monkeypatch.setattr(process, "_sentinel", reader.fileno())
        with error_within(5, KILLED + "vector step 5$"):
            env.step(np.zeros(2, int))
        assert env.env.unwrapped.closed


def test_a_worker_killed_in_a_reset_is_named():
    with (
        host(member(), member(reset=die())) as env,
        error_within(5, KILLED + "the reset$"),
    ):
        play(env)


def test_a_worker_killed_in_the_reset_after_an_episode_is_named():
    episodes = member(step=lambda t: None)

    class Second(episodes):
        def reset(self, **kwargs):
            if self.t:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().reset(**kwargs)

        def step(self, action):
            return (*super().step(action)[:2], self.t == 2, False, {})

    with (
        host(episodes, Second, autoreset_mode="Disabled") as env,
        error_within(5, KILLED + "vector step 1$"),
    ):
        play(env)


def test_an_exit_code_is_told():
    pattern = "^environment 0's worker process ended with exit code 3 at vector step 2$"
    with host(member(die(code=3))) as env, error_within(5, pattern):
        play(env)


def test_a_worker_that_died_is_named_while_another_is_slow():
    with (
        host(member(sleep(60)), member(die())) as env,
        error_within(8, KILLED + "vector step 2$"),
    ):
        play(env)


def test_after_such_an_error_the_vector_is_closed():
    with host(member(), member(die())) as env:
        with error_within(5, KILLED):
            play(env)
        with pytest.raises(gym.error.ClosedEnvironmentError):
            play(env)
        with pytest.raises(gym.error.ClosedEnvironmentError):
            play(HostEnv(env.env))


@pytest.mark.parametrize("hang", [loop(), sleep(600)])
def test_a_step_that_hangs_is_named(hang):
    pattern = (
        r"^environment 1 has not answered within 0.5 seconds at vector step 2: it "
        r"hangs, or needs a larger EnvConfig.worker_timeout$"
    )
    with (
        host(member(), member(hang), member(), worker_timeout=0.5) as env,
        error_within(6, pattern),
    ):
        play(env)


def test_a_reset_that_hangs_is_named():
    pattern = (
        "^environment 2 has not answered within 0.5 seconds at the reset: it hangs"
    )
    members = [member(), member(), member(reset=sleep(600))]
    with host(*members, worker_timeout=0.5) as env, error_within(6, pattern):
        play(env)


def test_a_worker_that_ignores_all_signals_but_one_is_ended():
    def stubborn(t):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    pattern = "environment 0 has not answered within 0.5 seconds"
    with host(member(stubborn), worker_timeout=0.5) as env, error_within(6, pattern):
        play(env)


def test_a_slow_step_is_waited_for():
    # Longer than what is waited for at once.
    with host(member(sleep(1.3)), worker_timeout=30) as env:
        play(env)


def test_the_limit_is_checked(helpers):
    with pytest.raises(ValueError, match=r"worker_timeout must be .* got 0"):
        HostEnv(helpers.count_envs(), worker_timeout=0)


WRONG = """
def fails(t):
    if t == 3:
        raise ValueError("100% wrong")


class Crash(Exception):
    def __init__(self, code, place):
        super().__init__(f"{code} at {place}")


def crashes(t):
    raise Crash(7, "sea")
"""


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    """In a file, which workers import, and whose lines a traceback shows."""
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("wrong")
    del sys.modules["wrong"]


def test_what_an_environment_raised_is_told_with_its_workers_traceback(wrong):
    with host(member(), member(wrong.fails), member()) as env:
        with error_within(5, "^100% wrong", ValueError) as caught:
            play(env)
        (note,) = caught.value.__notes__
        assert note.startswith("environment 1's worker raised this at vector step 2:")
        assert 'raise ValueError("100% wrong")' in note


def test_what_an_environment_raised_is_told_while_another_is_slow():
    def fails(t):
        raise ValueError("wrong")

    with (
        host(member(lambda t: time.sleep(60)), member(fails)) as env,
        error_within(6, "^wrong", ValueError),
    ):
        play(env)


def test_an_environments_error_that_cannot_be_sent_is_an_error_all_the_same(
    monkeypatch,
):
    def fails(t):
        raise ValueError(lambda: None)

    monkeypatch.setattr(guards, "ARRIVAL_SECONDS", 0.5)
    pattern = r"^environments \[1\] raised what cannot be sent .* at vector step 0$"
    with host(member(), member(fails)) as env, error_within(6, pattern):
        play(env)


def test_an_interrupt_that_ended_the_workers_is_told():
    with host(member(), member()) as env:
        play(env)
        for process in env.env.unwrapped.processes:
            os.kill(process.pid, signal.SIGINT)
            process.join()
        with pytest.raises(KeyboardInterrupt):
            play(env)


def test_an_interrupt_in_the_middle_of_a_step_leaves_a_vector_that_closes():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with host(member(), member(sleep(60))) as env:
            env.reset(SEED)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                play(env)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_error_of_a_wrapper_leaves_the_workers_as_they_are():
    class Fails(gym.vector.VectorWrapper):
        def step(self, actions):
            result = super().step(actions)
            self.n = getattr(self, "n", 0) + 1
            if self.n == 2:
                raise ValueError("mine")
            return result

    with host(member(), member()) as env:
        mine = HostEnv(Fails(env.env))
        with pytest.raises(ValueError, match="mine"):
            play(mine)
        play(mine)


def test_the_vector_is_as_it_was_between_calls():
    with host(member()) as env:
        vector = env.env.unwrapped
        before = vector.parent_pipes, vector.error_queue
        play(env)
        assert (vector.parent_pipes, vector.error_queue) == before


# --- Those of make_vec_env ------------------------------------------------------------


@pytest.fixture
def make():
    """Makes vectors of an environment by name; closes them."""
    made = []

    def make(maker, n_envs=2, mode="async", **kwargs):
        gym.register("Faulty-v0", maker, disable_env_checker=True)
        made.append(
            make_vec_env("Faulty-v0", n_envs, vectorization_mode=mode, **kwargs)
        )
        return made[-1]

    yield make
    for env in made:
        env.close()
    del gym.registry["Faulty-v0"]


def test_an_error_that_cannot_be_sent_is_told(make, wrong):
    env = HostEnv(make(member(wrong.crashes), n_envs=1))
    with error_within(5, "^Crash: 7 at sea") as caught:
        play(env)
    (note,) = caught.value.__notes__
    assert note.startswith("environment 0's worker raised this at vector step 0:")
    assert 'raise Crash(7, "sea")' in note


def in_worker(index):
    """Whether this is the process of that environment."""
    return lambda: multiprocessing.current_process().name.endswith(f">-{index}")


def test_an_environment_that_cannot_be_made_in_its_worker_is_told(make, wrong):
    here, fails = in_worker(1), wrong.fails
    pattern = (
        "(?s)^environment 1 could not be made in its worker: ValueError: 100% wrong"
        r'\n\nTraceback.*raise ValueError\("100% wrong"\)'
    )
    with error_within(20, pattern):
        make(member(make=lambda: here() and fails(3)))


def test_a_process_that_ends_before_its_environment_is_made_is_told(make):
    here = in_worker(1)
    pattern = (
        "^a worker process ended before it had made its environment, and wrote why"
    )
    with error_within(20, pattern):
        make(member(make=lambda: here() and os._exit(1)))


def test_an_interrupt_from_the_keyboard_is_left_to_the_process_that_trains(make):
    env = make(member())
    host = HostEnv(env)
    play(host)
    for process in env.processes:
        os.kill(process.pid, signal.SIGINT)
    play(host)


def test_workers_do_without_jax(make):
    assert make(member()).get_attr("knows_jax") == (False, False)


BAD = [
    (np.zeros(1, np.float32), r"float32\[1\]"),
    (np.full(4, 1e300), r"float64\[4\]"),
    (np.zeros(4, int), r"int64\[4\]"),
]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_observations_that_are_not_as_the_space_says_are_refused(mode, make):
    observation, got = BAD[0]
    pattern = rf"^observation of environment 0 must be float32\[4\] as Box.*got {got}"
    env = HostEnv(make(member(lambda t: observation if t == 2 else None), 1, mode))
    with pytest.raises(ValueError, match=pattern):
        play(env)
    assert env._steps == 1


@pytest.mark.parametrize("observation, got", BAD)
def test_first_observations_that_are_not_as_the_space_says_are_refused(
    observation, got, make
):
    pattern = rf"^observation of environment 0 must be float32\[4\] as Box.*got {got}"
    with pytest.raises(ValueError, match=pattern):
        play(HostEnv(make(member(reset=lambda: observation), mode="sync")))


def test_the_environment_with_the_bad_observation_is_named(make):
    numbers = iter(range(3))

    class Third(member()):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.bad = next(numbers) == 2

        def seen(self, observation):
            return np.zeros(3, np.float32) if self.bad else super().seen(None)

    with pytest.raises(ValueError, match=r"^observation of environment 2 must be"):
        play(HostEnv(make(Third, 3, mode="sync")))


def test_films_are_of_checked_environments_too():
    env = make_vec_env("CartPole-v1", 2, capture_video=True, run_name="filmed")
    assert all(isinstance(one, CheckedEnv) for one in env.envs)
    env.close()


def test_wrappers_of_ones_own_are_inside(make):
    class Doubles(gym.ObservationWrapper):
        def observation(self, observation):
            return observation.astype(np.float64)

    with pytest.raises(ValueError, match=r"^observation of environment 0 .*float64"):
        play(HostEnv(make(member(), mode="sync", wrappers=[Doubles])))


def test_a_single_environment_is_checked_too():
    env = member(lambda t: np.zeros(4))()
    with pytest.raises(ValueError, match=r"^observation of environment 0 .*float64"):
        play(HostEnv(as_vector_env(env)))


def test_members_of_a_vector_of_ones_own_can_be_checked():
    bad = member(lambda t: np.zeros(1, np.float32))
    members = [member(), lambda: CheckedEnv(bad(), index=1)]
    with (
        host(*members) as env,
        error_within(5, "^observation of environment 1 must be", ValueError),
    ):
        play(env)


PARTS = Dict({"n": Discrete(3), "two": Tuple([SPACE, Box(0, 255, (2,), np.uint8)])})
RIGHT = {"n": 1, "two": (ZEROS, np.zeros(2, np.uint8))}


@pytest.mark.parametrize(
    "space, observation",
    [
        (PARTS, RIGHT),
        (Discrete(3), np.int32(1)),
        (Discrete(3), np.array(1)),
        (Discrete(3), True),
        (Text(3), "abc"),
    ],
)
def test_observations_that_are_as_the_space_says_pass(space, observation):
    checked_member(observation, space, "observation")


@pytest.mark.parametrize(
    "space, observation, message",
    [
        (SPACE, [0.0] * 4, r"^x must be float32\[4\] as .*, got float64\[4\]"),
        (SPACE, None, r"got object\[\]"),
        (Discrete(3), 1.0, r"^x must be int64\[\] as Discrete\(3\) .* float64\[\]"),
        (Discrete(3), np.array([1]), r"got int64\[1\]"),
        (PARTS, RIGHT | {"more": 1}, "^x must be a dict of"),
        (PARTS, RIGHT | {"two": (ZEROS,)}, r"^x\['two'\] must be a tuple of 2"),
        (
            PARTS,
            RIGHT | {"two": (ZEROS, np.zeros(2, int))},
            r"^x\['two'\]\[1\] must be uint8\[2\] as .*, got int64\[2\]",
        ),
    ],
)
def test_the_part_of_one_observation_that_is_wrong_is_named(
    space, observation, message
):
    with pytest.raises(ValueError, match=message):
        checked_member(observation, space, "x")


# --- Forks and trainings --------------------------------------------------------------


def test_forked_workers_are_warned_of_once():
    with warnings.catch_warnings(record=True) as caught:
        # Of Python and JAX, which are right.
        warnings.simplefilter("ignore")
        vector = AsyncVectorEnv([member()], context="fork")
        warnings.simplefilter("default")
        for _ in range(2):
            HostEnv(vector)
        vector.close()
    (warning,) = caught
    assert warning.category is RuntimeWarning
    for remedy in ('context="forkserver"', 'vectorization_mode="async"'):
        assert remedy in str(warning.message)


def test_a_training_ends_with_the_error_of_a_worker(helpers):
    with host(member(), member(die())) as env:
        agent = helpers.make_agent(env.env)
        pattern = (
            KILLED + "vector step 2\nrun was saved at environment step 4 in runs/run"
        )
        with error_within(20, pattern):
            agent.train(env.env, 100)


def test_the_config_says_how_long_a_training_waits(helpers):
    pattern = "^environment 1 has not answered within 0.5 seconds at vector step 2"
    with host(member(), member(loop())) as env:
        config = helpers.make_config(env.env)
        config = replace(config, env_cfg=replace(config.env_cfg, worker_timeout=0.5))
        with error_within(20, pattern):
            helpers.TableAgent("run", config).train(env.env, 100)


TRAINING = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
import gymnasium as gym
import numpy as np

sys.path.insert(0, sys.argv[1])
from conftest import make_agent


class Dies(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    t = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == 30 and multiprocessing.current_process().name.endswith("-2"):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(1, np.float32), 0.0, False, False, {}


env = gym.vector.AsyncVectorEnv([Dies] * 4, context="forkserver")
agent = make_agent(env, max_buffer_size=10, batch_size=8)
try:
    agent.train(env, 10_000)
finally:
    Path("ended").write_text(str(time.time()))
"""


def test_a_process_whose_training_lost_a_worker_exits(tmp_path):
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", TRAINING, tests]
    ran = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert time.time() - float((tmp_path / "ended").read_text()) < 10
    assert ran.returncode == 1
    pattern = "environment 2's worker process was killed by SIGKILL at vector step 29"
    assert f"RuntimeError: {pattern}" in ran.stderr
