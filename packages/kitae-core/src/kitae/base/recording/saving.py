"""What of an agent is saved, when, and how it is taken over again."""

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import numpy as np

from kitae.base.algorithm.experience import row_kind
from kitae.base.common.memory import host_bytes
from kitae.base.common.pytrees import addressable, firm, n_bytes
from kitae.base.rundir import checkpoint
from kitae.base.rundir.archive import Arrays
from kitae.base.rundir.directory import shown
from kitae.config import check_int
from kitae.config.serial import (
    config_changes,
    config_to_json,
    strict_json,
    with_defaults,
)

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent

STATE, MEMORY, KEYS, WORLD = "state", "memory", "keys", "world"
FIXED = "env_cfg."


class World(NamedTuple):
    """Where a training on environments that are JAX functions is.

    Attributes:
        env: The environments' states.
        acted: What comes next: chosen already.
        constants: See `kitae.base.training.programs.Constants`.
        unfinished: Returns and lengths so far of the episodes that have not ended,
            each `[n_envs]`.
    """

    env: Any
    acted: Any
    constants: Any
    unfinished: Any


def parts_of(agent: "BaseAgent") -> dict[str, Any]:
    """Returns the pytrees that are all an agent goes on from, by name.

    Of several processes each must call it, and gets all of it.
    """
    if agent.memory is None:
        agent._prepare()
    agent._take_in(update=False)
    parts = {
        STATE: jax.tree.map(firm, agent.state),
        MEMORY: agent.memory,
        KEYS: {"interact": agent.interact_key, "learn": agent.learn_key},
    }
    if agent._world is not None:
        parts[WORLD] = agent._world
    return addressable(parts)


def facts_of(agent: "BaseAgent") -> dict[str, Any]:
    """Returns the plain values that belong to them."""
    return {
        "agent": type(agent).__name__,
        "config": strict_json(config_to_json(agent.config)),
        "step": agent.step,
        "iteration": agent.iteration,
        "updates": agent.updates,
        "rows": agent.rows.tolist(),
        "row": row_kind(agent._no_rows[0]),
        **agent._told,
    }


def host_parts(parts: dict[str, Any], *, copy: bool) -> dict[str, Arrays]:
    """Brings what `parts_of` returned to the host, if it is fit to be saved.

    Args:
        parts: The pytrees by name.
        copy: As for `kitae.base.rundir.checkpoint.host_arrays`.

    Raises:
        FloatingPointError: The agent's state is spoilt.
    """
    arrays = {
        name: checkpoint.host_arrays(part, copy=copy) for name, part in parts.items()
    }
    check_finite(arrays[STATE])
    return arrays


def check_finite(state: Arrays) -> None:
    """Refuses to save a state that training has spoilt.

    Raises:
        FloatingPointError: A parameter is NaN or infinite, or anything else is NaN.
    """
    for path, array in state.items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        # An optimizer may begin with an infinity; a parameter is never one.
        bad = ~np.isfinite(array) if "params" in path else np.isnan(array)
        if bad.any():
            raise FloatingPointError(
                f"state{path} has {int(bad.sum())} values that are not finite; it was "
                "not saved. A smaller learning_rate or max_grad_norm may help"
            )


def check_same_algorithm(agent_type: type, saved: checkpoint.Saved) -> None:
    """Refuses a checkpoint of an agent of another class.

    Raises:
        ValueError: It is one; the classes are named.
    """
    if saved.facts["agent"] != agent_type.__name__:
        raise ValueError(
            f"{saved.path} is of a {saved.facts['agent']}, which a "
            f"{agent_type.__name__} cannot go on from"
        )


def config_changes_of(agent: "BaseAgent", saved: checkpoint.Saved) -> list[str]:
    """Returns what an agent's config has otherwise than a checkpoint's, by field.

    Raises:
        ValueError: It is another algorithm's, or its environments are others.
    """
    check_same_algorithm(type(agent), saved)
    changes = config_changes(
        with_defaults(saved.facts["config"], agent.config), agent.config
    )
    fixed = [line for line in changes if line.startswith(FIXED)]
    if fixed:
        raise ValueError(
            f"{saved.path} is of other environments, which a resumed run cannot "
            "change:\n  " + "\n  ".join(fixed)
        )
    return changes


def take_over(agent: "BaseAgent", saved: checkpoint.Saved) -> None:
    """Gives an agent everything that is saved; one that is refused changes nothing."""
    facts = saved.facts
    stored = row_kind(agent._no_rows[0])
    if list(facts["row"].items()) != list(stored.items()):
        raise ValueError(
            f"{saved.path} holds rows of {facts['row']}, the agent stores {stored}"
        )
    if len(facts["rows"]) != len(agent.rows):
        raise ValueError(
            f"{saved.path} counts rows of {len(facts['rows'])} environments, the agent "
            f"has {len(agent.rows)}"
        )
    keys = {"interact": agent.interact_key, "learn": agent.learn_key}
    try:
        state = saved.tree(STATE, agent.state)
        memory = saved.tree(MEMORY, agent._memory_spec())
        keys = saved.tree(KEYS, keys)
    except checkpoint.OtherLeaves as error:
        changes = config_changes_of(agent, saved)
        if not changes:
            raise
        raise ValueError(
            f"{error}. Since then the config has changed:\n  " + "\n  ".join(changes)
        ) from error
    agent.state, agent.memory = state, memory
    agent.interact_key, agent.learn_key = keys["interact"], keys["learn"]
    take_over_facts(agent, facts)
    agent._pending = agent._unread = agent._world = None


def take_over_facts(agent: "BaseAgent", facts: dict[str, Any]) -> None:
    """Gives an agent the counters that are saved."""
    agent.step, agent.iteration = facts["step"], facts["iteration"]
    agent.updates, agent.rows = facts["updates"], np.array(facts["rows"], np.int64)
    agent._told = {name: facts[name] for name in agent._told}


class Saver:
    """Writes the checkpoints of a training, while it goes on.

    What is saved is copied; a thread writes the copy. Where a copy would take more
    than a quarter of the memory that is left, the training waits instead. An error in
    the thread is raised at the training's next step.

    Args:
        run_dir: The run's directory. None: nothing is written, since another process
            does.
        keep_last: The newest checkpoints that are kept; -1: all.
        keep_best: Whether the best one is kept too.
    """

    def __init__(self, run_dir: Path | None, keep_last: int, keep_best: bool) -> None:
        self._run_dir = run_dir
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kitae-save")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.wait()
        elif self._writing is not None and self._writing.exception() is not None:
            error.add_note(f"Besides: {self._writing.exception()}")

    def save(self, agent: "BaseAgent", *, wait: bool = False) -> None:
        """Saves an agent as it is now; of several processes each must call it.

        Args:
            agent: Whose training it is.
            wait: Whether to wait until it is on the disk.

        Raises:
            FloatingPointError: The agent's state is spoilt.
            OSError: This one, or the one before it, could not be written.
        """
        self.wait()
        parts = parts_of(agent)
        if self._run_dir is None:
            return
        wait = wait or n_bytes(parts) > host_bytes() / 4
        arrays = host_parts(parts, copy=not wait)
        self._writing = self._pool.submit(
            self._write, agent.step, arrays, facts_of(agent)
        )
        if wait:
            self.wait()

    def check(self) -> None:
        """Raises what went wrong since, and does not wait."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits for what is being written.

        Raises:
            OSError: It could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(
        self, step: int, arrays: dict[str, Arrays], facts: dict[str, Any]
    ) -> None:
        assert self._run_dir is not None
        checkpoint.write(self._run_dir, step, arrays, facts)
        if self._keep_last != -1:
            rotate(self._run_dir, step, self._keep_last, self._keep_best)


def rotate(run_dir: Path, written: int, keep_last: int, keep_best: bool) -> None:
    """Removes old checkpoints.

    One that is damaged takes no other's place: it is removed once the checkpoints that
    are kept are all newer.

    Args:
        run_dir: The run's directory.
        written: The step of the one that was just written, which is kept.
        keep_last: How many of the newest are kept, at least 1.
        keep_best: Whether the best one is kept too.
    """
    scores = whole_scores(run_dir)
    last = list(scores)[-keep_last:]
    kept = {written, *last, best_step(scores) if keep_best else written}
    for step in checkpoint.steps(run_dir):
        if step not in kept and (step in scores or step < min(last, default=0)):
            checkpoint.remove(run_dir, step)


def go_back(agent: "BaseAgent", run_dir: Path) -> None:
    """Prepares a training that begins before checkpoints which are there.

    These are of a branch that the run leaves: `checkpoint.retire` sets them aside at
    the first step. The user is warned now. If the run has no checkpoint of the
    agent's step, one is written first, so that the new branch has one to go on from at
    every moment.

    Args:
        agent: Who is about to train.
        run_dir: The run's directory, locked by the caller.
    """
    later = [step for step in checkpoint.steps(run_dir) if step > agent.step]
    if not later:
        return
    # One of several processes cannot save alone.
    if jax.process_count() == 1 and not checkpoint.read_whole(run_dir, agent.step):
        arrays = host_parts(parts_of(agent), copy=False)
        checkpoint.write(run_dir, agent.step, arrays, facts_of(agent))
    named = ", ".join(map(str, later))
    kept = shown(run_dir / "checkpoints" / ".<step>.retired")
    warnings.warn(
        f"{shown(run_dir)} goes back to environment step {agent.step}: once a step is "
        f"taken, its later checkpoints (of the steps {named}) and later rows are not "
        f"part of the run any more. These checkpoints are kept as {kept} until the "
        "next checkpoint is complete, and then removed",
        RuntimeWarning,
        stacklevel=2,
    )


def chosen(run_dir: Path, step: int | str) -> checkpoint.Saved:
    """Reads the checkpoint of a step, or the `"last"` or the `"best"` one.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or `step` is none of these.
    """
    if step == "best":
        best = best_step(whole_scores(run_dir))
        step = "last" if best is None else best
    if step == "last":
        return checkpoint.read(run_dir)
    check_int("step", step, 0)
    return checkpoint.read(run_dir, int(step))


def whole_scores(run_dir: Path) -> dict[int, float | None]:
    """Returns the mean training return that each whole checkpoint was saved with.

    Returns:
        By the step, ascending; None where no episode had ended. One that is damaged is
        left out.
    """
    return {
        step: saved.facts["score"]
        for step in checkpoint.steps(run_dir)
        if (saved := checkpoint.read_whole(run_dir, step)) is not None
    }


def best_step(scores: dict[int, float | None]) -> int | None:
    """Returns the step with the highest score, of equal ones the last.

    Example:
        >>> best_step({10: 1.5, 20: 3.0, 30: 3.0, 40: None})
        30
    """
    known = [(value, step) for step, value in scores.items() if value is not None]
    return max(known)[1] if known else None
