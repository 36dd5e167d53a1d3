"""Training on the host by the programs of `kitae.base.training.host_loop`."""

import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.algorithm.tracing import Acted
from kitae.base.common.pytrees import owned
from kitae.base.training.host_loop import Carry, Reply
from kitae.base.xla import loops
from kitae.config.schedule import warm_up
from kitae.envs import HostStep

if TYPE_CHECKING:
    from kitae.base.recording.run import Run
    from kitae.base.training.host import Steps

# How long the host waits at most before it looks whether there is something to do.
CHUNK_SECONDS = 0.25
# Vector steps that are sooner taken one by one than a program for them is compiled.
SHORT = 1_000


class Answers:
    """Steps the environments for one program, and keeps what goes wrong with that.

    Args:
        steps: Steps them, and counts.
        run: Tells whether to end early.
        observation: As the environments give it.
        program: Which calls.
        learns: Whether its groups begin with an update.
    """

    def __init__(
        self,
        steps: "Steps",
        run: "Run",
        observation: Any,
        program: loops.Loop,
        learns: bool,
    ) -> None:
        self._steps, self._run = steps, run
        self._program, self._learns = program, learns
        self._nothing = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype), observation
        )
        # Written anew for each step: a program copies what it is answered.
        self._step_told = np.zeros((4, steps.agent.config.env_cfg.n_rows), np.float32)
        self._control = np.zeros(2, np.int32)
        self._ends_at = time.perf_counter() + CHUNK_SECONDS
        self._n = 0
        self._stops_at = steps.next_stop()
        self.before = steps.agent.step
        self.error: BaseException | None = None
        self.requests: SimpleQueue = SimpleQueue()
        self.replies: SimpleQueue = SimpleQueue()

    def __call__(self, actions: np.ndarray) -> list[Any]:
        """Returns the leaves of the `Reply`; where there is none, one that counts not.

        It raises nothing: what was raised is in `error`.
        """
        agent = self._steps.agent
        if self._learns and self._n % self._program.size == 0:
            agent._updated()
        self._n += 1
        try:
            if self.error is None:
                self.before = agent.step
                return self._told(self._steps.take(actions))
        except BaseException as error:
            self.error = error
        self._step_told[:] = 0.0
        return self._leaves(self._nothing, self._nothing, False)

    def beside(self, program: Any) -> Any:
        """Calls `program()` in another thread, and answers its calls in this one."""
        outcome: Future = Future()

        def call() -> None:
            try:
                outcome.set_result(program())
            except BaseException as error:
                outcome.set_exception(error)
            finally:
                self.requests.put(None)

        threading.Thread(target=call, name="kitae-program").start()
        actions = self._next()
        while actions is not None:
            self.replies.put(self(actions))
            actions = self._next()
        return outcome.result()

    def _next(self) -> np.ndarray | None:
        while True:
            try:
                return self.requests.get()
            except BaseException as error:  # a second Ctrl-C: the program ends first
                self.error = error

    def _told(self, step: HostStep) -> list[Any]:
        told = self._step_told
        told[0], told[1] = step.reward, step.terminated
        told[2], told[3] = step.truncated, step.valid
        return self._leaves(step.observation, step.next_observation, self._goes_on())

    def _leaves(self, observation: Any, following: Any, goes_on: bool) -> list[Any]:
        control = self._control
        control[0], control[1] = self._steps.device_step, goes_on
        if isinstance(observation, np.ndarray):
            return [observation, following, self._step_told, control]
        return jax.tree.leaves(Reply(observation, following, self._step_told, control))

    def _goes_on(self) -> bool:
        agent = self._steps.agent
        if agent.step >= self._stops_at:
            return False
        if self._learns and self._n % self._program.size:
            return True  # a group that was begun is finished
        left = self._n < self._program.size * self._program.length
        due = bool(agent._update_due()) == self._learns
        quiet = not self._run.interrupted and time.perf_counter() < self._ends_at
        return left and due and quiet


class ByLoops:
    """Takes vector steps as `StepByStep` does, many in one program.

    Args:
        steps: Steps the environments.
        run: Is told of updates.
    """

    def __init__(self, steps: "Steps", run: "Run") -> None:
        agent = steps.agent
        self._steps, self._run = steps, run
        self._constants = agent.interact_key, agent.learn_key
        # With one update for many steps, to be woken twice a step would take longer
        # than what is gained. What draws on a screen belongs to one thread.
        self._beside = agent.config.skip_steps == 1 or steps.is_rendered
        self._loops = agent._host.loops(self._beside)
        self._world: tuple[Any, Acted]

    def start(self, observation: Any, hidden_state: Any, first: Any) -> None:
        """Goes on from what the environments gave, at first by their reset."""
        agent = self._steps.agent
        acted = self._loops.begin(
            agent.state,
            agent.interact_key,
            np.uint32(agent.iteration % 2**32),
            self._steps.device_step,
            observation,
            hidden_state,
            first,
        )
        self._world = observation, owned(acted)

    def advance(self) -> int:
        """Takes steps until the host has something to do.

        Returns:
            The agent's environment steps before the last one.
        """
        agent = self._steps.agent
        learns = agent._update_due()
        left = warm_up(agent.config) - agent.step
        if not learns and left <= SHORT * agent.config.env_cfg.n_envs:
            return self._one_step()
        return self._program(learns)

    def _one_step(self) -> int:
        """Takes one step that no update comes before, without a program of many."""
        agent, before = self._steps.agent, self._steps.agent.step
        observation, acted = self._world
        agent._take_in(update=False)
        actions = np.asarray(acted.actions)
        self.start(*self._steps.follow(observation, acted, actions))
        return before

    def _program(self, learns: bool) -> int:
        """Takes many steps in one program; see `HostLoops.program`."""
        steps, agent = self._steps, self._steps.agent
        observation, acted = self._world
        shapes = agent._host.shapes_of_info()
        info = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        carry = Carry(
            agent.state,
            agent.memory,
            agent._pending or agent._no_rows,
            observation,
            acted,
            info,
            steps.device_step,
            np.bool_(True),
        )
        # The program writes into what it is given: numpy's arrays stay others'.
        carry = jax.tree.map(
            lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), carry
        )
        program = self._loops.program(learns, self._constants, carry)
        answers = Answers(steps, self._run, observation, program, learns)

        def run() -> Carry:
            after, _ = program(self._constants, carry, agent.iteration, program.length)
            return jax.block_until_ready(after)

        with self._loops.line.to(answers):
            after = answers.beside(run) if self._beside else run()
        agent.state, agent.memory, agent._pending = (
            after.state,
            after.memory,
            after.pending,
        )
        self._world = after.observation, after.acted
        if learns:
            self._run.report.after_update(after.info)
        if answers.error is not None:
            raise answers.error
        return answers.before
