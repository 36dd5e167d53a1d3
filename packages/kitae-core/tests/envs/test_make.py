import sys
from importlib import metadata
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from kitae.envs import as_vector_env, make_vec_env


def episode_length(env):
    env.reset(seed=0)
    for length in range(1, 2000):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample() * 0 + 1)
        if truncated[0] and not terminated[0]:
            return length
        assert not terminated[0]
    raise AssertionError


def test_takes_an_environments_own_vectorised_form():
    env = make_vec_env("CartPole-v1", 3)
    assert env.num_envs == 3
    assert type(env.unwrapped).__name__ == "CartPoleVectorEnv"
    env.close()


def test_steps_others_in_one_process_and_resets_in_the_same_step():
    env = make_vec_env("Acrobot-v1", 2)
    assert isinstance(env, SyncVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.close()


def test_makes_processes_when_asked():
    env = make_vec_env("Acrobot-v1", 2, vectorization_mode="async")
    assert isinstance(env, AsyncVectorEnv)
    env.close()


@pytest.mark.parametrize("mode", [None, "sync"])
def test_time_limits_are_those_of_the_registry_and_applied_once(mode):
    # Pushing does not end these episodes; the limit does.
    env = make_vec_env("MountainCar-v0", 1, vectorization_mode=mode)
    assert episode_length(env) == 200
    env.close()
    env = make_vec_env(
        "MountainCar-v0", 1, vectorization_mode=mode, max_episode_steps=7
    )
    assert episode_length(env) == 7
    member = env.envs[0]
    limits = 0
    while isinstance(member, gym.Wrapper):
        limits += isinstance(member, gym.wrappers.TimeLimit)
        member = member.env
    assert limits == 1
    env.close()


def test_the_own_form_has_the_registrys_limit_too():
    with pytest.warns(DeprecationWarning, match="out of date"):
        old = make_vec_env("CartPole-v0", 1)
    assert old.unwrapped.max_episode_steps == 200
    assert make_vec_env("CartPole-v1", 1).unwrapped.max_episode_steps == 500


def test_films_the_first_environment_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make_vec_env("CartPole-v1", 2, capture_video=True, run_name="filmed")
    env.reset(seed=0)
    for _ in range(60):
        env.step(np.ones(2, np.int64))
    env.close()
    videos = sorted(p.name for p in tmp_path.rglob("*.mp4"))
    assert videos == ["rl-video-episode-0.mp4"]
    assert (tmp_path / "runs" / "filmed" / "videos" / videos[0]).stat().st_size > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"vectorization_mode": "sync"},
        {"vectorization_mode": "async"},
        {"capture_video": True, "run_name": "wrapped"},
        {"capture_video": True, "run_name": "wrapped", "render_mode": "human"},
    ],
)
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_wrappers_are_applied_to_each_environment_in_their_order(arguments):
    # Acrobot gives -1 at each step before its end.
    changed = gym.wrappers.TransformReward
    wrappers = [
        lambda env: changed(env, lambda reward: reward + 1.0),
        lambda env: changed(env, lambda reward: reward * 10.0),
    ]
    env = make_vec_env("Acrobot-v1", 2, wrappers=wrappers, **arguments)
    env.reset(seed=0)
    _, reward, *_ = env.step(np.zeros(2, np.int64))
    env.close()
    assert reward.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mode", [None, "sync", "async"])
def test_a_module_in_front_of_an_id_is_imported(mode, tmp_path, monkeypatch):
    (tmp_path / "registers_lift.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import AcrobotEnv\n"
        "class Lift(AcrobotEnv): pass\n"
        "gym.register('Lift-v7', 'registers_lift:Lift')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make_vec_env("registers_lift:Lift-v7", 1, vectorization_mode=mode)
    del gym.registry["Lift-v7"], sys.modules["registers_lift"]
    assert env.reset(seed=0)[0].shape == (1, 6)
    env.close()
    with pytest.raises(ImportError, match="'no_such:Lift-v7': No module named"):
        make_vec_env("no_such:Lift-v7", 1, vectorization_mode=mode)


@pytest.fixture
def drawn_id(helpers):
    """The id of a small environment that draws itself."""

    class Drawn(helpers.CountEnv):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
        render_mode = None

        def __init__(self, render_mode=None):
            super().__init__()
            self.render_mode = render_mode

        def render(self):
            return np.zeros((32, 32, 3), np.uint8)

    gym.register("Drawn-v0", Drawn)
    yield "Drawn-v0"
    del gym.registry["Drawn-v0"]


def test_videos_go_to_the_run_that_is_trained(helpers, drawn_id):
    pytest.importorskip("moviepy")
    before = make_vec_env(drawn_id, 2)
    helpers.make_agent(before, "taken", n_env_steps=20).train(before, 20)
    env = make_vec_env(drawn_id, 2, capture_video=True, run_name="taken")
    agent = helpers.make_agent(env, "taken", n_env_steps=20)
    agent.train(env, 20)
    env.close()
    assert not Path("runs/taken/videos").exists()
    assert agent.run_dir.name == "taken-2"
    videos = [path.name for path in Path("runs/taken-2/videos").iterdir()]
    assert videos == ["rl-video-episode-0.mp4"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n_envs": 0}, "n_envs must be an int of at least 1"),
        ({"capture_video": True}, "capture_video needs run_name"),
        (
            {"capture_video": True, "run_name": "x", "vectorization_mode": "async"},
            "capture_video films one environment of vectorization_mode='sync'",
        ),
        ({"vectorization_mode": "turbo"}, "vectorization_mode must be one of"),
        (
            {"wrappers": [gym.Wrapper]},
            "CartPole-v1 is made in its own vectorised form: ask for single ones by",
        ),
        (
            {"wrappers": [gym.Wrapper], "backend": "gymnax"},
            "Gymnasium's single environments, got backend 'gymnax'",
        ),
        ({"wrappers": gym.Wrapper}, "wrappers must be a list of functions"),
        ({"wrappers": ["TimeLimit"]}, "wrappers must be a list of functions"),
        ({"wrappers": None}, "wrappers must be a list of functions"),
        ({"wrappers": iter([gym.Wrapper])}, "wrappers must be a list of functions"),
        (
            {"backend": "brax"},
            r"backend must be one of \('gymnasium', 'gymnax', 'jumanji'\), got 'brax'",
        ),
        (
            {"backend": "gymnax", "capture_video": True, "run_name": "x"},
            "capture_video needs backend='gymnasium', got 'gymnax'",
        ),
        (
            {"backend": "jumanji", "vectorization_mode": "sync"},
            "vectorization_mode='sync' needs backend='gymnasium', got 'jumanji'",
        ),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_vec_env(**{"env_id": "CartPole-v1", "n_envs": 1} | arguments)


def test_an_unknown_environment_is_named():
    with pytest.raises(gym.error.Error, match="CartPool"):
        make_vec_env("CartPool-v1", 2)


@pytest.mark.parametrize("backend", ["gymnax", "jumanji"])
def test_a_backend_that_is_not_installed_is_told(backend, monkeypatch):
    def find(name):
        raise metadata.PackageNotFoundError(name)

    message = rf'{backend} is not installed: pip install "kitae-core\[{backend}\]"'
    monkeypatch.setattr(metadata, "version", find)
    with pytest.raises(ImportError, match=message):
        make_vec_env("CartPole-v1", 2, backend=backend)


@pytest.mark.parametrize(
    "backend, version, is_old",
    [
        ("gymnax", "0.0.9", True),
        ("gymnax", "1.0.0", False),
        ("gymnax", "10.0", False),
        ("jumanji", "1.0.1", True),
        ("jumanji", "1.1.0rc1", False),
    ],
)
def test_a_backend_with_another_interface_is_refused(
    backend, version, is_old, tmp_path, monkeypatch
):
    """A package of that version which cannot be imported comes first on the path."""
    info = tmp_path / f"{backend}-{version}.dist-info"
    info.mkdir()
    found = f"Metadata-Version: 2.1\nName: {backend}\nVersion: {version}\n"
    (info / "METADATA").write_text(found)
    (tmp_path / f"{backend}.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == backend]:
        monkeypatch.delitem(sys.modules, name)
    message = r"cannot be imported \(No module named 'no_such_module'\): pip install"
    if is_old:
        message = f"{backend} {version} has another interface than {backend} 1.. and"
    with pytest.raises(ImportError, match=message):
        make_vec_env("CartPole-v1", 2, backend=backend)


def test_a_vector_of_one_never_closes_what_was_lent(helpers):
    single = helpers.CountEnv()
    vector = as_vector_env(single)
    vector.close()
    del vector
    assert not single.closed
