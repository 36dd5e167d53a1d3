"""What of an agent is saved, when, and how it is taken over again."""

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from kitae.base.algorithm.state import Counters, Keys, Log, TrainingState
from kitae.base.common.memory import host_bytes
from kitae.base.common.pytrees import addressable, firm, n_bytes
from kitae.base.rundir import checkpoint
from kitae.base.rundir.archive import Arrays
from kitae.base.rundir.directory import shown
from kitae.config import AlgoConfig, check_int
from kitae.config.serial import (
    config_changes,
    config_to_json,
    strict_json,
    with_defaults,
)

# Of a checkpoint. The names stay: older runs have them.
STATE, MEMORY, KEYS, ENVIRONMENTS = "state", "memory", "keys", "world"
FIXED = "env_cfg."


def parts_of(training: TrainingState) -> dict[str, Any]:
    """Returns the pytrees that a training continues from, by name.

    Of several processes each must call it, and gets all of it.

    Args:
        training: Settled: with no pending rows.
    """
    parts = {
        STATE: jax.tree.map(firm, training.state),
        MEMORY: training.memory,
        KEYS: training.keys._asdict(),
    }
    if training.environments is not None:
        parts[ENVIRONMENTS] = training.environments
    return addressable(parts)


def facts_of(
    training: TrainingState, agent: str, config: AlgoConfig, row: dict[str, str]
) -> dict[str, Any]:
    """Returns the plain values that belong to them.

    Args:
        training: The same.
        agent: The agent's class.
        config: Of the agent.
        row: Dtype and shape of each part of a row.
    """
    step, iteration, updates, rows = training.counters
    return {
        "agent": agent,
        "config": strict_json(config_to_json(config)),
        "step": step,
        "iteration": iteration,
        "updates": updates,
        "rows": rows.tolist(),
        "row": row,
        **training.log._asdict(),
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


def check_same_algorithm(agent: str, saved: checkpoint.Saved) -> None:
    """Refuses a checkpoint of an agent of another class.

    Raises:
        ValueError: It is one; the classes are named.
    """
    if saved.facts["agent"] != agent:
        raise ValueError(
            f"{saved.path} was written by {saved.facts['agent']}; cannot resume with "
            f"{agent}"
        )


def config_changes_of(
    agent: str, config: AlgoConfig, saved: checkpoint.Saved
) -> list[str]:
    """Returns what differs between a config and a checkpoint's, field by field.

    Args:
        agent: The agent's class.
        config: Of the agent.
        saved: The checkpoint.

    Raises:
        ValueError: It is another algorithm's, or its environments are others.
    """
    check_same_algorithm(agent, saved)
    changes = config_changes(with_defaults(saved.facts["config"], config), config)
    fixed = [line for line in changes if line.startswith(FIXED)]
    if fixed:
        raise ValueError(
            f"{saved.path} is of other environments, which a resumed run cannot "
            "change:\n  " + "\n  ".join(fixed)
        )
    return changes


class Expected(NamedTuple):
    """What an agent expects of a checkpoint.

    Attributes:
        agent: The agent's class.
        config: Of the agent.
        row: Dtype and shape of each part of a row.
        memory: Shapes and dtypes of the memory.
    """

    agent: str
    config: AlgoConfig
    row: dict[str, str]
    memory: Any


def restored(
    saved: checkpoint.Saved, expected: Expected, training: TrainingState
) -> TrainingState:
    """Returns the state that a checkpoint holds; the environments are read later.

    Args:
        saved: The checkpoint.
        expected: What the agent expects.
        training: Any state of the agent.

    Raises:
        ValueError: The checkpoint is damaged, or holds other shapes or dtypes.
    """
    facts = saved.facts
    if list(facts["row"].items()) != list(expected.row.items()):
        raise ValueError(
            f"{saved.path} holds rows of {facts['row']}, the agent stores "
            f"{expected.row}"
        )
    n_rows = len(training.counters.rows)
    if len(facts["rows"]) != n_rows:
        raise ValueError(
            f"{saved.path} counts rows of {len(facts['rows'])} environments, the agent "
            f"has {n_rows}"
        )
    try:
        state = saved.tree(STATE, training.state)
        memory = saved.tree(MEMORY, expected.memory)
        keys = saved.tree(KEYS, training.keys._asdict())
    except checkpoint.OtherLeaves as error:
        changes = config_changes_of(expected.agent, expected.config, saved)
        if not changes:
            raise
        raise ValueError(
            f"{error}. Since then the config has changed:\n  " + "\n  ".join(changes)
        ) from error
    training = with_facts(training, facts)
    return training._replace(
        state=state, memory=memory, keys=Keys(**keys), pending=None, environments=None
    )


def with_facts(training: TrainingState, facts: dict[str, Any]) -> TrainingState:
    """Returns a state with the counters and the log of a checkpoint."""
    return training._replace(
        counters=Counters(
            facts["step"],
            facts["iteration"],
            facts["updates"],
            np.array(facts["rows"], np.int64),
        ),
        log=Log(facts["seconds"], facts["info"], facts["score"]),
    )


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

    def save(
        self, training: TrainingState, facts: dict[str, Any], *, wait: bool = False
    ) -> None:
        """Saves a training as it is now; of several processes each must call it.

        Args:
            training: Settled: with no pending rows.
            facts: See `facts_of`.
            wait: Whether to wait until it is on the disk.

        Raises:
            FloatingPointError: The agent's state is spoilt.
            OSError: This one, or the one before it, could not be written.
        """
        self.wait()
        parts = parts_of(training)
        if self._run_dir is None:
            return
        wait = wait or n_bytes(parts) > host_bytes() / 4
        arrays = host_parts(parts, copy=not wait)
        step = training.counters.step
        self._writing = self._pool.submit(self._write, step, arrays, facts)
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


def go_back(training: TrainingState, facts: dict[str, Any], run_dir: Path) -> None:
    """Prepares a training that begins before checkpoints which are there.

    These are of a branch that the run leaves: `checkpoint.retire` sets them aside at
    the first step. The user is warned now. If the run has no checkpoint of where the
    training begins, one is written first, so that the new branch has one to continue
    from at every moment.

    Args:
        training: Where it begins, settled.
        facts: See `facts_of`.
        run_dir: The run's directory, locked by the caller.
    """
    step = training.counters.step
    later = [known for known in checkpoint.steps(run_dir) if known > step]
    if not later:
        return
    # One of several processes cannot save alone.
    if jax.process_count() == 1 and not checkpoint.read_whole(run_dir, step):
        arrays = host_parts(parts_of(training), copy=False)
        checkpoint.write(run_dir, step, arrays, facts)
    named = ", ".join(map(str, later))
    kept = shown(run_dir / "checkpoints" / ".<step>.retired")
    warnings.warn(
        f"{shown(run_dir)} goes back to environment step {step}: once a step is "
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
