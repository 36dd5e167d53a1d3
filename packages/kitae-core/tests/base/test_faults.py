"""What a run does when the disk, the memory, the numbers or its files are bad."""

import contextlib
import errno
import hashlib
import json
import pickle
import shutil
import subprocess
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filelock import FileLock

from kitae.base.algorithm.state import Counters
from kitae.base.common import memory
from kitae.base.recording import saving
from kitae.base.rundir import checkpoint, manifest
from kitae.base.rundir import directory as run_dir
from kitae.base.rundir.directory import is_locked, locked


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 200 kB under `runs/`."""
    folder = tmp_path / "runs"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(
            f"no small disk to fill, since mounting is impossible here: {error}"
        )
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def steps(agent):
    return checkpoint.steps(agent.run_dir)


def test_a_full_disk_is_told_and_the_old_checkpoint_stays(helpers, small_disk):
    env = helpers.count_envs()
    agent = helpers.make_agent(
        env, n_env_steps=10_000, save_frequency=100, max_buffer_size=500
    )
    agent.train(env, 100)
    (small_disk / "other").write_bytes(bytes(100_000))
    with pytest.raises(OSError, match=r"checkpoint of step \d+ could not") as caught:
        agent.train(env, 4_000)
    assert caught.value.errno == errno.ENOSPC
    last = steps(agent)[-1]
    assert f"the last one is of step {last}" in str(caught.value)
    left = {p.name for p in (agent.run_dir / "checkpoints").iterdir()}
    assert left == {str(step) for step in steps(agent)}
    (small_disk / "other").unlink()
    again = helpers.make_agent(
        env, n_env_steps=10_000, save_frequency=100, max_buffer_size=500
    )
    again.resume(env, last + 100)
    assert again.step == last + 100


def test_a_checkpoint_that_is_damaged_offers_the_one_before_it(helpers):
    env = helpers.count_envs()
    helpers.make_agent(env, save_frequency=20).train(env, 60)
    for name in ("state.npz", "manifest.json"):
        (Path("runs/run/checkpoints/60") / name).write_bytes(b"")
        again = helpers.make_agent(env, save_frequency=20)
        with pytest.raises(ValueError, match=rf"{name} is damaged.*step=40"):
            again.resume(env, 100)
    with pytest.warns(RuntimeWarning, match=r"of the steps 60\) and later rows"):
        again.resume(env, 100, step=40)
    assert again.step == 100


def test_every_bit_of_a_manifest_counts(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 40)
    path = agent.run_dir / "checkpoints/40/manifest.json"
    content = path.read_bytes()
    # Every byte costs a millisecond; a prime stride reaches all kinds of places.
    for at in range(0, len(content), 17):
        for bit in (0, 5):
            damaged = bytearray(content)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
                checkpoint.read(agent.run_dir)
    path.write_bytes(content)
    assert checkpoint.read(agent.run_dir).step == 40


def test_a_format_to_come_is_refused_by_its_number(helpers, monkeypatch):
    agent = helpers.make_agent(helpers.count_envs())
    with monkeypatch.context() as later:
        later.setattr(manifest, "FORMAT", 2)
        agent.save()
    with pytest.raises(ValueError, match=r"format 2, this version .* reads format 1"):
        agent.restore("runs/run")


def test_the_newest_checkpoints_and_the_best_are_kept(helpers):
    env = helpers.count_envs()
    changes = {"save_frequency": 10, "keep_last": 2, "n_env_steps": 200}
    agent = helpers.make_agent(env, "kept", **changes)
    agent.train(env, 30)
    # Of the two environments the second has the large returns, and at step 10 half of
    # the episodes: one of two, later two of five and three of eight.
    assert steps(agent) == [10, 20, 30]
    folder = agent.run_dir / "checkpoints"
    body = json.loads((folder / "20/manifest.json").read_bytes())
    del body["sha256"]
    body["facts"]["score"] = 1e9
    (folder / "20/manifest.json").write_bytes(manifest.sealed(body))
    again = helpers.make_agent(env, "kept", **changes)
    again.resume(env, 80)
    # The one that is best now, and no longer the one that was.
    assert steps(again) == [20, 70, 80]
    assert saving.chosen(again.run_dir, "best").step == 20
    assert saving.chosen(again.run_dir, "last").step == 80
    assert saving.chosen(again.run_dir, 70).step == 70
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 71, but of \["):
        saving.chosen(again.run_dir, 71)

    all_of_them = helpers.make_agent(env, save_frequency=10, keep_last=-1)
    all_of_them.train(env, 50)
    assert steps(all_of_them) == [10, 20, 30, 40, 50]
    newest = helpers.make_agent(
        env, "newest", save_frequency=10, keep_last=1, keep_best=False
    )
    newest.train(env, 50)
    assert steps(newest) == [50]


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(helpers):
    env = helpers.count_envs()
    helpers.make_agent(env, save_frequency=20).train(env, 40)
    shutil.rmtree("runs/run/checkpoints")
    again = helpers.make_agent(env, save_frequency=20)
    assert again.resume(env, 60).env_steps == 60
    assert [p.name for p in Path("runs").iterdir()] == ["run"]
    rows = Path("runs/run/metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["env_step", "60"]


def test_what_a_killed_save_left_is_removed_or_put_back(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 40)
    folder = agent.run_dir / "checkpoints"
    (folder / ".60.tmp").mkdir()
    (folder / ".60.tmp" / "state.npz").write_bytes(b"half of it")
    # Killed while a checkpoint of the same step took this one's place.
    (folder / "40").rename(folder / ".40.old")
    assert checkpoint.read(agent.run_dir).step == 40
    again = helpers.make_agent(env)
    again.resume(env, 60)
    assert sorted(p.name for p in folder.iterdir()) == ["40", "60"]


def test_a_row_cut_off_in_the_middle_is_written_again(helpers):
    env = helpers.count_envs()
    changes = {"save_frequency": 20, "log_frequency": 10, "reset_on_save": True}
    helpers.make_agent(env, "whole", **changes).train(env, 80)
    env = helpers.count_envs()
    helpers.make_agent(env, **changes).train(env, 40)
    for name in ("metrics.csv", "episodes.csv"):
        with Path("runs/run", name).open("a") as file:
            file.write("50,1")
    helpers.make_agent(env, **changes).resume(env, 80)
    for name in ("metrics.csv", "episodes.csv"):
        lines = [
            Path("runs", run, name).read_text().splitlines() for run in ("run", "whole")
        ]
        steps = [[line.split(",")[0] for line in mine] for mine in lines]
        assert steps[0] == steps[1]


def test_a_run_in_use_is_refused_by_name_and_free_again_afterwards(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    with (
        locked(agent.run_dir),
        pytest.raises(RuntimeError, match="runs/run is being written by another"),
    ):
        agent.train(env, 20)
    with locked(agent.run_dir), pytest.raises(RuntimeError, match="runs/run"):
        agent.save()
    agent.train(env, 20)


def test_looking_whether_a_run_is_in_use_is_no_use(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    before = sorted(path.name for path in agent.run_dir.iterdir())
    assert not is_locked(agent.run_dir)
    with locked(agent.run_dir):
        assert is_locked(agent.run_dir)
    assert not is_locked(agent.run_dir)
    assert sorted(path.name for path in agent.run_dir.iterdir()) == before
    (agent.run_dir / ".lock").unlink()
    assert not is_locked(agent.run_dir)
    assert not (agent.run_dir / ".lock").exists()


def test_whoever_looks_at_that_moment_keeps_no_training_from_its_lock(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run_dir, "PATIENCE_SECONDS", 30.0)  # a busy machine's
    look = FileLock(tmp_path / ".lock", thread_local=False)
    look.acquire()
    timer = Timer(0.05, look.release)
    timer.start()
    with locked(tmp_path):
        assert not look.is_locked
    timer.join()


class Canary:
    """Sings when it is unpickled."""

    sung = Path("sung")

    def __reduce__(self):
        return (Path.touch, (Path("sung"),))


def test_a_pickle_planted_anywhere_never_runs(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, tensorboard=True, save_frequency=20)
    agent.train(env, 40)
    pickle.loads(pickle.dumps(Canary()))
    assert Canary.sung.exists()  # it can sing
    Canary.sung.unlink()

    objects = Path("objects.npz")
    array = np.empty(1, object)
    array[0] = Canary()
    np.savez(objects, **{"0": array, "1": array}, allow_pickle=True)
    files = [p for p in agent.run_dir.rglob("*") if p.is_file()]
    assert {".lock", "config.json", "metrics.csv", "episodes.csv", "manifest.json"} <= {
        p.name for p in files
    }
    for file in files:
        for harm in (pickle.dumps(Canary()), objects.read_bytes()):
            shutil.rmtree("runs/copy", ignore_errors=True)
            shutil.copytree(agent.run_dir, "runs/copy")
            victim = Path("runs/copy") / file.relative_to(agent.run_dir)
            victim.write_bytes(harm)
            if file.suffix == ".npz":  # with a manifest that believes in it
                reseal(victim, harm)
            use_everything(helpers, env)
            assert not Canary.sung.exists(), file


def reseal(file, content):
    path = file.parent / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["sha256"]
    body["parts"][file.stem]["sha256"] = hashlib.sha256(content).hexdigest()
    path.write_bytes(manifest.sealed(body))


def use_everything(helpers, env):
    """Reads whatever of a run can be read, refusals included."""
    agent = helpers.make_agent(env, "copy", tensorboard=True, save_frequency=20)
    for read in (
        lambda: agent.load("runs/copy", params_type=helpers.TableParams).save(),
        lambda: agent.load("runs/copy", params_type=helpers.TableParams, step="best"),
        lambda: agent.restore("runs/copy", 20),
        lambda: agent.resume(env, 60),
    ):
        with contextlib.suppress(ValueError, OSError):
            read()


def test_a_state_that_is_not_finite_is_never_saved(helpers):
    class Spoilt(helpers.TableAgent):
        def _update_factory(self, config):
            update = super()._update_factory(config)

            def spoil(state, key, batch):
                state, _ = update(state, key, batch)
                late = state["updates"] > 20
                state["value"] = jnp.where(late, jnp.nan, state["value"])
                return state, {"loss_value": 0.0}  # which says nothing of it

            return spoil

    env = helpers.count_envs()
    agent = helpers.make_agent(env, agent_type=Spoilt, save_frequency=20)
    with pytest.raises(FloatingPointError, match=r"state\['value'\] has 1 values"):
        agent.train(env, 100)
    known = steps(agent)
    assert known
    assert known[-1] <= 48
    with pytest.raises(FloatingPointError, match="it was not saved"):
        agent.save()
    assert steps(agent) == known
    helpers.make_agent(env, agent_type=Spoilt, save_frequency=20).restore("runs/run")


def test_an_optimizers_first_infinity_is_no_fault():
    saving.check_finite({"['opt']['best']": np.array(np.inf, np.float32)})
    with pytest.raises(FloatingPointError, match="params"):
        saving.check_finite({".params['w']": np.array([1.0, -np.inf], np.float32)})


def test_a_replay_larger_than_memory_is_refused_before_it_is_made(helpers, monkeypatch):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, max_buffer_size=10**9)
    with pytest.raises(
        MemoryError, match=r"max_buffer_size \* n_envs = 10+ \* 2 = .* GB"
    ):
        agent.train(env, 20)
    assert not Path("runs").exists()

    limits = {"memory.max": "1000000", "memory.current": "900000"}
    stat = "anon 1\ninactive_file 50000\nfile 2\n"
    for name, content in {**limits, "memory.stat": stat}.items():
        Path(name).write_text(content)
    monkeypatch.setattr(memory, "CGROUP", Path())
    assert memory.host_bytes() == 150_000
    Path("memory.max").write_text("max")
    assert memory.host_bytes() > 1_000_000


def test_an_accelerators_memory_is_its_own(monkeypatch):
    stats = {"bytes_limit": 1_000, "bytes_in_use": 300}
    device = SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory.available_bytes() == 700


def test_counters_go_on_past_what_32_bits_hold(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    training = agent.training_state
    counters = Counters(2**32 - 6, 2**32 - 3, 2**31 - 2, training.counters.rows)
    agent.training_state = training._replace(counters=counters)
    agent.train(env, 20)
    assert (agent.step, agent.iteration) == (2**32 + 14, 2**32 + 7)
    assert agent.updates > 2**31
    again = helpers.make_agent(env)
    again.resume(env, 2**32 + 20)
    assert (again.step, again.iteration) == (2**32 + 20, 2**32 + 10)


def test_a_config_that_changed_is_told_field_by_field(helpers):
    env = helpers.count_envs()
    helpers.make_agent(env).train(env, 20)
    other = helpers.make_agent(env, learning_rate=0.05, gamma=0.8)
    with pytest.warns(RuntimeWarning) as caught:
        other.resume(env, 40)
    (found,) = [str(w.message) for w in caught]
    assert "update_cfg.learning_rate: 0.1 -> 0.05" in found
    assert "algo_params.gamma: 0.9 -> 0.8" in found
    # From now on it is the run's.
    config = json.loads(Path("runs/run/config.json").read_text())
    assert config["algo_params"]["gamma"] == 0.8
    helpers.make_agent(env, learning_rate=0.05, gamma=0.8).resume(env, 60)


def test_another_algorithm_or_another_environment_is_refused(helpers):
    class Another(helpers.TableAgent):
        pass

    env = helpers.count_envs()
    helpers.make_agent(env).train(env, 20)
    with pytest.raises(
        ValueError, match="was written by TableAgent; cannot resume with Another"
    ):
        helpers.make_agent(env, agent_type=Another).resume(env, 40)
    wider = helpers.count_envs((3, 5, 7))
    with pytest.raises(ValueError, match=r"env_cfg\.n_envs: 2 -> 3"):
        helpers.make_agent(wider).resume(wider, 40)


def test_a_run_is_loaded_to_be_evaluated_and_to_go_on(helpers):
    env = helpers.count_envs()
    changes = {"save_frequency": 20, "keep_last": -1}
    agent = helpers.make_agent(env, **changes)
    agent.train(env, 60)
    loaded = helpers.TableAgent.load("runs/run", params_type=helpers.TableParams)
    assert loaded.config == agent.config
    assert (loaded.step, loaded.updates) == (60, agent.updates)
    assert loaded.memory is None  # which may be large, and is not needed to evaluate
    one, other = (a.evaluate(helpers.count_envs(), 4, seed=1) for a in (agent, loaded))
    np.testing.assert_array_equal(one, other)
    early = helpers.TableAgent.load(
        "runs/run", params_type=helpers.TableParams, step=20
    )
    assert early.step == 20

    loaded.train(helpers.count_envs(), 40)
    with pytest.warns(RuntimeWarning, match="goes back to environment step 60"):
        agent.train(helpers.count_envs(), 40)
    assert loaded.run_dir == agent.run_dir == Path("runs/run").absolute()
    for a, b in zip(
        jax.tree.leaves((loaded.state, loaded.memory)),
        jax.tree.leaves((agent.state, agent.memory)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(TypeError, match=r"TableAgent\.load needs params_type"):
        helpers.TableAgent.load("runs/run")
    with pytest.raises(ValueError, match="step must be an int of at least 0"):
        helpers.TableAgent.load(
            "runs/run", params_type=helpers.TableParams, step="frist"
        )
    shutil.rmtree("runs")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        helpers.TableAgent.load("runs/run", params_type=helpers.TableParams)
