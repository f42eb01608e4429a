"""Compare an exported file with the agent that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Tuple

from recdqn.agent import Agent
from recdqn.envs import declared_spaces
from recdqn.envs.entries import MASK
from recdqn.errors import UserError
from recdqn.export.network import Step

TOLERANCE = 1e-4  # relative to 1 + |Q|: largest difference between a file and its agent
STEPS = 8
BATCH = 3


def compare(call: Callable[[dict[str, np.ndarray]], list[np.ndarray]], agent: Agent, network: Step) -> None:
    """Run a file for a few steps beside the agent, with random observations and starts.

    Args:
        call: from :func:`recdqn.export.opened`.
        agent: in float32, on the CPU.
        network: what was written.

    Raises:
        UserError: if they differ.
    """
    state = agent.initial_state(BATCH)
    for k in range(STEPS):
        inputs = network.examples(BATCH, seed=k)
        started = inputs["is_init"][:, 0]
        state = tuple(np.where(started.reshape(-1, *[1] * (s.ndim - 1)), 0, s) for s in state)
        inputs |= dict(zip(network.states, state, strict=True))
        reward = inputs["reward"][:, 0] if network.previous else 0.0
        expected, after = agent.values(_observation(agent, inputs), state, reward, inputs.get(MASK))
        wanted = (expected, expected.argmax(-1) + network.first_action, *after)
        for one, a, b in zip(network.outputs, call(inputs), wanted, strict=True):
            off = np.abs(a - b).max() / (1 + np.abs(b[np.abs(b) < 1e30]).max(initial=0.0))
            if one["name"] != "action" and off > TOLERANCE:
                raise UserError(
                    f"the exported {one['name']} is {off:.1e} away from the agent's: do not use the file"
                )
        state = after


def _observation(agent: Agent, inputs: dict[str, np.ndarray]) -> Any:
    """Return the inputs as a batch of observations; entries that the agent does not read are zeros."""
    if "observation" in inputs:
        return inputs["observation"]

    def build(space: Any, name: str) -> Any:
        if isinstance(space, Dict):
            return {key: build(part, f"{name}.{key}") for key, part in space.spaces.items()}
        if isinstance(space, Tuple):
            return tuple(build(part, f"{name}.{k}") for k, part in enumerate(space.spaces))
        if name in inputs:
            return inputs[name]
        if name == f"observation.{agent.cfg.mask}":
            return inputs[MASK]
        return [None] * BATCH if space.shape is None else np.zeros((BATCH, *space.shape), space.dtype)

    return build(declared_spaces(agent.cfg)[0], "observation")
