import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from importlib import metadata
from pathlib import Path

import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from kitae.algos import cli
from kitae.algos.cli.settings import (
    defaults,
    find_agent,
    named_in,
    read_settings,
    said_again,
)
from kitae.algos.presets import AGENTS, preset


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kitae", *map(str, arguments)])
    cli.main()


def refused(monkeypatch, capsys, *arguments):
    """Runs what must be refused, and returns what was said."""
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, *arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


SHORT = (
    *("--n-env-steps", "600", "--n-eval-episodes", "3", "--n-envs", "4"),
    *("--batch-size", "64", "--start-step", "-1"),
)
FIRST = "runs/dqn-CartPole-v1-0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the run of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        run(monkeypatch, "train", "dqn", *SHORT, "--gamma", "0.9")
    return folder


@pytest.fixture
def in_trained(trained, monkeypatch):
    monkeypatch.chdir(trained)


def test_train_leaves_its_settings_which_train_the_same_again(
    in_trained, monkeypatch, capsys
):
    config = json.loads(Path(FIRST, "config.json").read_text(encoding="utf-8"))
    assert config["algo_params"]["gamma"] == 0.9
    assert config["update_cfg"]["batch_size"] == 64
    assert config["env_cfg"]["n_envs"] == 4
    settings = Path(FIRST, "train.toml")
    found = tomllib.loads(settings.read_text(encoding="utf-8"))
    assert (found["agent"], found["env_id"], found["algo"]["gamma"]) == (
        "dqn",
        "CartPole-v1",
        0.9,
    )
    run(monkeypatch, "train", "dqn", "--config", settings, "--run-name", "again")
    out = capsys.readouterr().out
    assert "Training dqn on CartPole-v1: 4 environments, 600 environment steps" in out
    assert "Greedy evaluation over 3 episodes at 6" in out
    for name in ("episodes.csv", "config.json"):
        assert Path("runs/again", name).read_text() == Path(FIRST, name).read_text()


def test_a_file_is_overridden_by_flags_and_says_only_what_it_says(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'env_id = "Acrobot-v1"\nn_envs = 2\n[update]\nmax_grad_norm = "none"\n'
        "[env_kwargs]\nmax_episode_steps = 50\n",
        encoding="utf-8",
    )
    found = read_settings(path, "dqn", AGENTS["dqn"])
    tuned = preset("dqn", "Acrobot-v1")
    assert found.n_envs == 2
    assert found.update.max_grad_norm is None
    assert found.update.learning_rate == tuned.update_cfg.learning_rate
    assert found.algo == tuned.algo_params
    assert found.env_kwargs == {"max_episode_steps": 50}
    elsewhere = read_settings(path, "dqn", AGENTS["dqn"], "CartPole-v1")
    assert elsewhere.algo == preset("dqn", "CartPole-v1").algo_params


@pytest.mark.parametrize(
    "content, message",
    [
        ("[algo]\ngama = 0.9\n", "algo.gama is not a field of DQNParams: did you"),
        ("[algo]\ngamma = 2.0\n", "algo.gamma must be a finite number in [0.0, 1.0]"),
        ("[algo]\ngamma = '1'\n", "algo.gamma must be a number, got '1'"),
        ("n_env = 2\n", "n_env is not a field of Training: did you mean n_envs"),
        ("[algo\n", "is not a TOML file of settings"),
        ('agent = "c51"\n', "has the settings of another agent than 'dqn'"),
        ("a = " + "[" * 5_000, "bad.toml is not a TOML file of settings: "),
        (".".join("a" * 5_000) + " = 1\n", "bad.toml is not a TOML file of settings: "),
        ("seed = " + "9" * 5_000, "is not a TOML file of settings"),
        ('run_name = "\\u001b[31m"\n', r"must not have control characters, got '\x1b"),
        ('[env_kwargs]\n"\\u202e" = 1\n', r"control characters, got '\u202e'"),
    ],
    ids=range(11),
)
def test_a_bad_file_is_told_in_one_line(
    monkeypatch, capsys, tmp_path, content, message
):
    Path("bad.toml").write_text(content, encoding="utf-8")
    said = refused(monkeypatch, capsys, "train", "dqn", "--config", "bad.toml")
    assert said.startswith("kitae: bad.toml")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("train", "sarsa"), "agent must be one of dqn, c51, qrdqn"),
        (("train", "os:path"), "agent 'os:path' is not a subclass of kitae.base.Base"),
        (("train", "no_such:DQN"), "agent 'no_such:DQN' cannot be imported"),
        (("train", "dqn", "--env-id", "CartPool-v1"), "Did you mean: `CartPole`"),
        (("train", "dqn", "--env-id", "Pendulum-v1"), "DQN needs discrete actions"),
        (("train", "dqn", "--n-env-steps", "10"), "ends before the first update"),
        (("train", "dqn", "--run-name", "../out"), "must not have a part '..'"),
        (("train", "dqn", "--config", "none.toml"), "none.toml"),
        (("resume", "runs/none"), "there is no run in runs/none: it is not there"),
        (("eval", "a-file"), "there is no run in a-file: it is a file"),
        (("report", "a-folder"), "it is a folder without config.json"),
        (("plot", "runs/none"), "there is no run in runs/none: it is not there"),
        (("plot",), "plot needs the directories of runs"),
        (("runs", "none"), "there is no folder none"),
        (("envs", "zzz"), "no environment of gymnasium has 'zzz' in its id"),
        (("sweep", "dqn"), "search must name at least one field"),
        (("sweep", "dqn", "--search", "gamme=0:1"), "search must name one of algo.gam"),
        (("sweep", "dqn", "--search", "gamma=1:0"), "search must be field=low:high"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_the_user_got_wrong_is_told_in_one_line(
    monkeypatch, capsys, arguments, message
):
    Path("a-file").touch()
    Path("a-folder").mkdir()
    said = refused(monkeypatch, capsys, *arguments)
    assert said.startswith("kitae: ")
    assert message in said
    assert said.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--batch-size", "0"), "batch_size must be an int of at least 1, got 0"),
        (("--gamma", "2"), "gamma must be a finite number in [0.0, 1.0], got 2.0"),
        (("--gama", "0.9"), "--gamma FLOAT"),
    ],
)
def test_a_bad_flag_is_refused_by_name(monkeypatch, capsys, arguments, message):
    said = refused(monkeypatch, capsys, "train", "dqn", *arguments)
    assert message in " ".join(said.replace("│", " ").split())


def test_a_run_is_resumed_evaluated_and_looked_at(trained, monkeypatch, capsys):
    folder = trained / FIRST
    monkeypatch.chdir(trained)
    run(monkeypatch, "eval", FIRST, "--n-episodes", "2", "--seed", "7")
    assert "over 2 episodes at 6" in capsys.readouterr().out
    noted = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert [one["episodes"] for one in noted] == [3, 2]
    assert noted[-1]["seed"] == 7
    assert noted[-1]["low"] <= noted[-1]["mean"] <= noted[-1]["high"]

    run(monkeypatch, "plot", "runs", "--out", "curves")
    assert capsys.readouterr().out.split() == ["curves.png", "curves.svg"]
    run(monkeypatch, "report", FIRST)
    assert "DQN" in (folder / "report.html").read_text(encoding="utf-8")
    run(monkeypatch, "runs")
    assert "finished" in capsys.readouterr().out

    said = refused(monkeypatch, capsys, "resume", FIRST)
    assert "environment steps already: to continue, ask for more" in said
    with pytest.warns(RuntimeWarning, match="learning_rate_annealing ends"):
        run(monkeypatch, "resume", FIRST, "--n-env-steps", "900")
    out = capsys.readouterr().out
    assert "Resuming dqn on CartPole-v1, to 900 environment steps" in out
    assert "environment steps: mean return" in out


def test_an_episode_is_filmed(in_trained, monkeypatch, capsys):
    pytest.importorskip("moviepy")
    arguments = ("--n-episodes", "1", "--video", "--n-videos", "2", "--step", "best")
    run(monkeypatch, "eval", FIRST, *arguments)
    assert "Filmed 2 episodes of returns" in capsys.readouterr().out
    films = sorted(Path(FIRST, "videos").rglob("*.mp4"))
    assert len(films) == 2
    assert all(film.stat().st_size > 1_000 for film in films)


def test_an_interrupted_run_is_told_how_to_go_on(monkeypatch, capsys):
    def pressed(self, actions):
        signal.raise_signal(signal.SIGINT)
        return step(self, actions)

    step = CartPoleVectorEnv.step
    monkeypatch.setattr(CartPoleVectorEnv, "step", pressed)
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "train", "dqn", *SHORT)
    assert exit_.value.code == 130
    out = capsys.readouterr().out
    assert "Stopped and saved at 4 environment steps" in out
    assert f"kitae resume {FIRST}" in out
    monkeypatch.setattr(CartPoleVectorEnv, "step", step)
    run(monkeypatch, "resume", FIRST)
    assert "Trained for 59" in capsys.readouterr().out


OWN_AGENT = """
from dataclasses import dataclass
from kitae.algos import DQN, DQNParams


@dataclass(frozen=True)
class Params(DQNParams):
    hidden_sizes: tuple[int, ...] = (16,)
    mine: float = 0.5


class Mine(DQN):
    params_type = Params
"""


def test_an_agent_of_ones_own_is_trained_and_named_to_go_on(monkeypatch, capsys):
    Path("own_agent.py").write_text(OWN_AGENT, encoding="utf-8")
    run(monkeypatch, "train", "own_agent:Mine", *SHORT, "--mine", "0.25")
    folder = Path("runs/Mine-CartPole-v1-0")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["algo_params"]["mine"] == 0.25
    said = refused(monkeypatch, capsys, "eval", folder)
    assert "name it by --agent, your own as module:Class" in said
    run(monkeypatch, "eval", folder, "--agent", "own_agent:Mine", "--n-episodes", "1")
    assert "over 1 episodes" in capsys.readouterr().out


def test_a_file_never_names_what_is_imported(in_trained, monkeypatch, capsys):
    """Whatever a run's files say, only what the user typed is imported."""
    Path("evil.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    settings = Path(FIRST, "train.toml")
    before = settings.read_text(encoding="utf-8")
    settings.write_text(before.replace('"dqn"', '"evil:DQN"'), encoding="utf-8")
    said = refused(monkeypatch, capsys, "eval", FIRST)
    settings.write_text(before, encoding="utf-8")
    assert "settings of another agent than 'dqn'" in said


CANARY = "canary:CartPole-v1"


@pytest.fixture
def canary(monkeypatch):
    """A module that must not be imported; returns a check of that."""
    Path("canary.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(Path.cwd())

    def check(said):
        assert "canary" not in sys.modules
        assert f"if you trust it, add --env-id {CANARY}" in said
        assert said.count("\n") == 1

    yield check
    sys.modules.pop("canary", None)


@pytest.mark.parametrize("mode", ["none", "sync", "async", "vector_entry_point"])
def test_no_settings_file_names_a_module(mode, canary, monkeypatch, capsys):
    Path("mine.toml").write_text(
        f'env_id = "{CANARY}"\nvectorization_mode = "{mode}"\n', encoding="utf-8"
    )
    for command in (("train", "dqn"), ("sweep", "dqn", "--search", "gamma=0.1,0.2")):
        said = refused(monkeypatch, capsys, *command, "--config", "mine.toml")
        assert said.startswith("kitae: mine.toml: env_id 'canary:CartPole-v1' names a")
        canary(said)


@pytest.mark.parametrize("command", ["eval", "resume"])
@pytest.mark.parametrize("named_by", ["train.toml", "config.json"])
def test_no_file_of_a_run_names_a_module(
    command, named_by, trained, canary, monkeypatch, capsys
):
    shutil.copytree(trained / FIRST, "run")
    path = Path("run", named_by)
    text = path.read_text(encoding="utf-8")
    if named_by == "config.json":
        Path("run", "train.toml").unlink()
    path.write_text(
        text.replace('"CartPole-v1"', f'"{CANARY}"').replace('"none"', '"sync"', 1),
        encoding="utf-8",
    )
    canary(refused(monkeypatch, capsys, command, "run"))


OWN_ENV = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

gym.register("Own-v0", CartPoleEnv, max_episode_steps=50)
"""


def test_an_environment_of_ones_own_is_trained_and_named_to_go_on(monkeypatch, capsys):
    Path("own_env.py").write_text(OWN_ENV, encoding="utf-8")
    own = ("--env-id", "own_env:Own-v0")
    run(monkeypatch, "train", "dqn", *SHORT, *own)
    folder = "runs/dqn-own-env-Own-v0-0"
    capsys.readouterr()
    said = refused(monkeypatch, capsys, "eval", folder)
    assert "add --env-id own_env:Own-v0" in said
    run(monkeypatch, "eval", folder, *own, "--n-episodes", "1")
    assert "over 1 episodes" in capsys.readouterr().out
    with pytest.warns(RuntimeWarning, match="learning_rate_annealing ends"):
        run(monkeypatch, "resume", folder, *own, "--n-env-steps", "620")
    assert "Resuming dqn on own_env:Own-v0" in capsys.readouterr().out
    again = ("--config", f"{folder}/train.toml", "--run-name", "again")
    assert "own_env" in refused(monkeypatch, capsys, "train", "dqn", *again)
    run(monkeypatch, "train", "dqn", *again, *own)
    sys.modules.pop("own_env")


@pytest.mark.parametrize(
    "agent, env_id, options",
    [
        ("dqn", "CartPole-v1", ""),
        ("dqn", "own env:Own-v0", " --env-id 'own env:Own-v0'"),
        ("own:Mine", "own:Own-v0", " --agent own:Mine --env-id own:Own-v0"),
    ],
)
def test_what_was_imported_is_to_be_named_again(agent, env_id, options):
    assert said_again(agent, defaults("dqn", AGENTS["dqn"], env_id)) == options


@pytest.mark.parametrize(
    "name",
    [
        *("wrappers", "vector_kwargs", "disable_env_checker", "backend", "run_name"),
        *("capture_video", "num_envs", "id", "env_id", "vectorization_mode"),
    ],
)
def test_what_makes_environments_is_no_argument_of_one(name, monkeypatch, capsys):
    Path("bad.toml").write_text(f"[env_kwargs]\n{name} = 1\n", encoding="utf-8")
    said = refused(monkeypatch, capsys, "train", "dqn", "--config", "bad.toml")
    assert said == (
        "kitae: bad.toml: env_kwargs must be arguments of the environment, but "
        f"{name!r} is one of what makes environments\n"
    )


def test_arguments_of_an_environment_are_one_option(monkeypatch, capsys):
    """Whatever their names: here those of other options."""
    Path("mine.toml").write_text("[env_kwargs]\ngamma = 1\nseed = 2\n", "utf-8")
    from_file = ("train", "dqn", "--config", "mine.toml")
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, *from_file, "--help")
    assert exit_.value.code == 0
    assert "(default: gamma 1 seed 2)" in " ".join(capsys.readouterr().out.split())
    assert "'gamma'" in refused(monkeypatch, capsys, *from_file)
    flags = ("--env-kwargs", "sutton_barto_reward", "True", "max_episode_steps", "9")
    run(monkeypatch, *from_file, *SHORT, *flags)
    (folder,) = Path("runs").iterdir()
    found = tomllib.loads((folder / "train.toml").read_text("utf-8"))
    assert found["env_kwargs"] == {"sutton_barto_reward": True, "max_episode_steps": 9}
    said = refused(monkeypatch, capsys, *from_file, "--env-kwargs", "odd")
    assert "names and values in turn are needed" in " ".join(said.split())


def broken(monkeypatch, name):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, name, os.fdopen(writer, "w", encoding="utf-8"))


@pytest.mark.parametrize(
    "arguments",
    [("agents",), ("envs",), ("runs",), ("report", FIRST), ("--help",), ("envs", "-h")],
    ids=" ".join,
)
def test_a_reader_that_is_gone_is_no_error(in_trained, arguments, monkeypatch, capsys):
    broken(monkeypatch, "stdout")
    if arguments[-1] in ("--help", "-h"):
        with pytest.raises(SystemExit) as exit_:
            run(monkeypatch, *arguments)
        assert exit_.value.code == 0
    else:
        run(monkeypatch, *arguments)
    said = capsys.readouterr().err
    assert said.startswith("kitae: standard output can no longer be written (Broken")
    assert said.count("\n") == 1
    sys.stdout.close()


def test_an_error_that_nobody_reads_keeps_its_exit_status(monkeypatch):
    broken(monkeypatch, "stderr")
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "runs", "none")
    assert exit_.value.code == 2
    sys.stderr.close()


HOSTILE = "\x1b[31m\x9b2J\u202e\ud800 [/0.1]\nrun-2"
ESCAPED = r"\x1b[31m\x9b2J\u202e\ud800 [/0.1]\nrun-2"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_runs_are_listed_whatever_their_files_say(
    in_trained, encoding, monkeypatch, tmp_path
):
    for name in ("lr[/0.1]", "dqn[red]", "a\x1b[31m\nb", "bad[/]"):
        shutil.copytree(FIRST, tmp_path / name)
    config = tmp_path / "dqn[red]" / "config.json"
    written = json.loads(config.read_text(encoding="utf-8"))
    written["env_cfg"]["task_name"] = HOSTILE
    config.write_text(json.dumps(written), encoding="utf-8")
    system = tmp_path / "lr[/0.1]" / "system.json"
    system.write_text(json.dumps([{"agent": f"A{HOSTILE}"}]), encoding="utf-8")
    (tmp_path / "bad[/]" / "metrics.csv").write_text(f"x\n{HOSTILE[:5]}\n")
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "200")
    run(monkeypatch, "runs", tmp_path)
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert len(lines) == 6
    assert sorted(line.split()[0] for line in lines[1:5]) == [
        *(r"a\x1b[31m\nb", "bad[/]", "dqn[red]", "lr[/0.1]"),
    ]
    assert any(f" {ESCAPED} " in line for line in lines)
    assert any(f" A{ESCAPED} " in line for line in lines)
    assert lines[5].startswith("bad[/]: ")
    assert not any(set("\x1b\x9b\u202e") & set(line) for line in lines)


def test_errors_and_warnings_forge_no_lines(monkeypatch, capsys):
    said = refused(monkeypatch, capsys, "runs", "no\x1b[31m\x9b\u202e\nkitae: fine")
    assert said == ("kitae: there is no folder no\\x1b[31m\\x9b\\u202e kitae: fine\n")
    # Gymnasium colours its warnings.
    message = "\x1b[33mWARN: one\nkitae: two \x9b\x1b[0m"
    written = warnings.formatwarning(message, UserWarning, "file", 1)
    assert written == "kitae: warning: WARN: one\n  kitae: two \\x9b\n"


def test_videos_of_a_training_are_its_own(trained, monkeypatch, capsys):
    pytest.importorskip("moviepy")
    shutil.copytree(trained / FIRST, FIRST)
    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        monkeypatch.setenv(driver, "")  # so that it is restored
        monkeypatch.delenv(driver)
    run(monkeypatch, "train", "dqn", *SHORT, "--capture-video")
    assert os.environ["SDL_AUDIODRIVER"] == os.environ["SDL_VIDEODRIVER"] == "dummy"
    assert f"everything is in {FIRST}-2" in capsys.readouterr().out
    assert list(Path(f"{FIRST}-2", "videos").glob("*.mp4"))
    assert not list(Path(FIRST, "videos").glob("*.mp4"))


def test_a_sweep_finds_the_better_value_and_goes_on(monkeypatch, capsys):
    pytest.importorskip("optuna")
    arguments = ("sweep", "dqn", *SHORT, "--search", "n_epochs=1,2", "gamma=0.5:0.9")
    run(monkeypatch, *arguments, "--n-trials", "2", "--n-seeds", "2")
    assert "trial 2/2: mean return" in capsys.readouterr().out
    run(monkeypatch, *arguments, "--n-trials", "3")
    out = capsys.readouterr().out
    assert "trial 3/3: mean return" in out
    assert "trial 2/3" not in out
    folder = Path("runs/sweep-dqn-CartPole-v1-0")
    rows = (folder / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "trial,mean_return,algo.gamma,update.n_epochs"
    best = max(rows[1:], key=lambda row: float(row.split(",")[1])).split(",")
    found = tomllib.loads((folder / "best.toml").read_text(encoding="utf-8"))
    assert found["algo"]["gamma"] == float(best[2])
    assert found["update"]["n_epochs"] == int(best[3])
    assert read_settings(folder / "best.toml", "dqn", AGENTS["dqn"]).n_envs == 4


def test_seeds_of_a_sweep_are_one_program_where_that_can_be(monkeypatch, capsys):
    pytest.importorskip("optuna")
    arguments = ("--env-id", "phys2d/CartPole-v1", "--search", "gamma=0.5,0.9")
    run(monkeypatch, "sweep", "dqn", *SHORT, *arguments, "--n-trials", "1")
    assert "trial 1/1: mean return" in capsys.readouterr().out


def test_agents_and_environments_are_listed(monkeypatch, capsys):
    run(monkeypatch, "agents")
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in AGENTS)
    assert "Mnih" in out
    run(monkeypatch, "envs", "cartpole")
    assert capsys.readouterr().out.split() == ["CartPole-v1", "phys2d/CartPole-v1"]


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_settings_for_every_task(agent):
    for task in ("CartPole-v1", "MountainCar-v0", "phys2d/CartPole-v1", "Unknown-v0"):
        found = preset(agent, task)
        assert isinstance(found.algo_params, find_agent(agent).params_type)
    assert preset(agent, "phys2d/CartPole-v1") == preset(agent, "CartPole-v1")


@pytest.mark.parametrize(
    "arguments, value",
    [
        (["--env-id", "A"], "A"),
        (["--env_id=A"], "A"),
        (["--env-id"], None),
        (["--env-idea", "A"], None),
    ],
)
def test_a_flag_is_found_before_the_rest_is_read(arguments, value):
    assert named_in(arguments, "--env-id") == value


@pytest.mark.parametrize("path", ["runs", FIRST])
def test_a_file_where_a_run_would_be_is_refused(path, monkeypatch, capsys):
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).touch()
    said = refused(monkeypatch, capsys, "train", "dqn")
    assert said == (
        f"kitae: the run's directory would be {FIRST}, but {path} is a file\n"
    )


def test_the_command_alone_shows_what_there_is(monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch)
    assert exit_.value.code == 0
    assert "resume" in capsys.readouterr().out


def test_a_film_without_what_writes_it_is_refused_before_anything_is_played(
    in_trained, monkeypatch, capsys
):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    said = refused(monkeypatch, capsys, "eval", FIRST, "--video")
    assert said == (
        'kitae: moviepy is not installed: pip install "kitae-core[video]"\n'
    )


def test_the_command_is_installed():
    help_text = subprocess.run(
        ["kitae", "train", "rainbow", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--learning-rate" in help_text
    assert "--priority-exponent" in help_text
    assert "Environment steps" in help_text
