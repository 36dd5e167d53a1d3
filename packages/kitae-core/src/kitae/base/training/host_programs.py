"""What a training on the host calls at every step, compiled."""

from typing import TYPE_CHECKING, Any

import jax

from kitae.base.algorithm.tracing import ActFn, pure_learn
from kitae.base.training.host_loop import HostLoops
from kitae.base.xla.stepping import HoistedFunction
from kitae.types import Info, State

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent


class HostPrograms:
    """An agent's functions, each compiled at its first call.

    Attributes:
        act: `explore`, alone or with rows added in the same program.
        select: `select_action`.
        add: `add(memory, rows, valid) -> memory`; the memory is given up.
        learn: `learn(key_data, iteration, state, memory, rows, valid) -> (state,
            memory, info)` adds the rows first; state and memory are given up.
    """

    def __init__(self, agent: "BaseAgent") -> None:
        storage = agent._storage()
        add, learn = storage.add, pure_learn(agent, storage)

        def add_and_learn(
            key_data: jax.Array,
            iteration: jax.Array,
            state: State,
            memory: Any,
            rows: Any,
            valid: jax.Array,
        ) -> tuple[State, Any, Info]:
            return learn(state, add(memory, rows, valid), key_data, iteration)

        self._agent = agent
        self._loops: dict[Any, HostLoops] = {}
        self.act = ActFn(agent, "explore", add)
        self.select = ActFn(agent, "select_action")
        self.add = jax.jit(add, donate_argnums=0)
        self.learn = HoistedFunction(add_and_learn, donate=(0, 1))

    def loops(self, beside: bool) -> HostLoops:
        """Returns the programs of many steps; see there."""
        key = beside, self._agent._agent_names
        if key not in self._loops:
            self._loops[key] = HostLoops(self._agent, beside)
        return self._loops[key]

    def shapes_of_info(self) -> Info:
        """Returns the shapes and dtypes of what an update tells."""
        agent = self._agent
        return self.learn.eval_shape(
            agent.learn_key, 0, agent.state, agent.memory, *agent._no_rows
        )[2]
