"""A policy as a function: observation and recurrent state in, action and recurrent state out."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from recdqn.config import EnvConfig
from recdqn.envs import declared_spaces
from recdqn.envs.actions import decode, sizes
from recdqn.envs.arrays import WrongObservation
from recdqn.envs.entries import MASK, Reader, batch_size, element
from recdqn.envs.make import reader_of
from recdqn.errors import UserError, show
from recdqn.policy.modules import recurrent_cell
from recdqn.policy.plain import chain, single_step, state_count, step
from recdqn.policy.previous import WithPrevious

State = tuple[np.ndarray, ...]
ILLEGAL = float(np.finfo(np.float32).min)  # value of an action that is not legal, as TorchRL sets it


class Agent:
    """Act in a loop of your own, on one observation or on a batch of them.

    The observation is what the environment's ``reset`` and ``step`` return: a masked agent hides the entries
    itself, and one that sees pictures shrinks them. For an agent that sees the rendered environment it
    is the picture of :class:`recdqn.envs.RenderedPixels`, ``[1, size, size]``, uint8; and for one that sees
    several observations at once (``env.stack``) it is the last ones, ``[stack, n]``, the newest at the end.

    The state belongs to an episode: begin each one with :meth:`initial_state`, and give each call the state
    that the call before returned. An agent that sees its previous step (``env.previous``) also needs the
    reward that its last action brought; the action itself is the last part of the state, one-hot. If you take
    another action than that of :meth:`act`, change it there.

    Args:
        policy: from :func:`recdqn.policy.make_policy`, or a chain of modules of the same kinds.
        cfg: the environment it was trained in.

    Attributes:
        rng: NumPy generator of the random actions. Replace it to choose the seed.

    Raises:
        UserError: if the policy is not such a chain.

    Example:
        >>> cfg = Config.preset("masked-cartpole")
        >>> agent = Agent(make_policy(cfg.policy, make_env(cfg.env)), cfg.env)
        >>> action, state = agent.act([0.0, 0.1, 0.02, 0.0], agent.initial_state())
        >>> [part.shape for part in state]
        [(1, 64), (1, 64)]
    """

    def __init__(self, policy: TensorDictModuleBase, cfg: EnvConfig) -> None:
        self.cfg = cfg
        self._modules = chain(policy)
        first = getattr(self._modules[0], "module", None)
        self._actions = first.actions if isinstance(first, WithPrevious) else 0
        keys = self._modules[0].in_keys[: None if recurrent_cell(self._modules[0]) is None else 1]
        self._keys = [key for key in keys if key != "previous"]
        self._device = next((p.device for p in policy.parameters()), torch.device("cpu"))
        self._loc, self._scale = (
            torch.tensor(x, dtype=torch.float32, device=self._device) for x in (cfg.loc, cfg.scale)
        )
        self._visible = list(cfg.visible) if cfg.observation == "masked" else None
        self._single = single_step(self._modules)
        cells = [cell for module in self._modules if (cell := recurrent_cell(module)) is not None]
        self._state_shapes: list[tuple[int, ...]] = [
            (cell.num_layers, cell.hidden_size) for cell in cells for _ in range(state_count(cell))
        ]
        self._state_shapes += [(self._actions,)] if self._actions else []
        self.rng = np.random.default_rng()

    def initial_state(self, batch: int | None = None) -> State:
        """Return the state at the start of an episode.

        Returns:
            Zeros: for each state of the recurrent layers ``[layers, hidden]``, or ``[batch, layers, hidden]``
            for ``batch`` observations at once. A policy without a recurrent layer has none. For an agent
            that sees its previous step they end with ``[actions]`` or ``[batch, actions]``.
        """
        shape = () if batch is None else (batch,)
        return tuple(np.zeros((*shape, *size), np.float32) for size in self._state_shapes)

    def act(
        self,
        observation: Any,
        state: State,
        reward: ArrayLike = 0.0,
        epsilon: float = 0.0,
        mask: ArrayLike | None = None,
    ) -> tuple[Any, State]:
        """Choose the action with the largest Q-value, or sometimes a random one.

        Args:
            observation: one observation, or a batch ``[batch, ...]``; then each entry of a ``Dict`` or
                ``Tuple`` is a batch.
            state: from :meth:`initial_state`, or what the call before returned.
            reward: for the last action, as the environment's ``step`` returned it: a number, or ``[batch]``.
                Only an agent that sees its previous step reads it, and not at the start of an episode.
            epsilon: probability of a random action, for each observation; see :attr:`rng`.
            mask: which actions are legal, ``[actions]`` or ``[batch, actions]``, where ``env.mask`` names an
                entry of ``info``.

        Returns:
            The action as the environment's ``step`` takes it, an integer, or an array ``[batch]``, or a list
            of actions of other kinds; and the state for the next call.

        Raises:
            UserError: if the observation or the state has another shape or type than the environment's or
                the policy's.
        """
        values, state = self.values(observation, state, reward, mask)
        action = values.argmax(-1)
        if epsilon > 0:
            random = self.rng.integers(values.shape[-1], size=action.shape)
            if (illegal := values == ILLEGAL).any():
                random = (self.rng.random(values.shape) - illegal).argmax(-1)
            action = np.where(self.rng.random(action.shape) < epsilon, random, action)
            if self._actions:
                state = (*state[:-1], np.eye(self._actions, dtype=np.float32)[action])
        if isinstance(space := self._declared[1], Discrete):
            action = action + int(space.start)
            return (int(action) if values.ndim == 1 else action), state
        return (decode(space, action) if values.ndim == 1 else [decode(space, a) for a in action]), state

    def values(
        self, observation: Any, state: State, reward: ArrayLike = 0.0, mask: ArrayLike | None = None
    ) -> tuple[np.ndarray, State]:
        """Compute the Q-values.

        Args:
            observation: as for :meth:`act`.
            state: as for :meth:`act`.
            reward: as for :meth:`act`.
            mask: as for :meth:`act`.

        Returns:
            The Q-values of the actions in their order, ``[actions]`` or ``[batch, actions]``; and the state
            for the next call.

        Raises:
            UserError: as :meth:`act`.
        """
        if self._reader is not None:
            seen, batch = self._read(self._reader, observation, mask)
            self._check_state(state, batch)
        else:
            seen = self._array(observation)
            batch = self._batch(seen.shape, state)
            seen = seen[None] if batch is None else seen
            if self.cfg.mask != "none":
                seen = {self._keys[0]: seen, MASK: self._legal(mask, len(seen))}
            elif batch is None and not self._actions and len(self._keys) == 1:
                return self._one(seen, state)
        if batch is None:
            state = tuple(part[None] for part in state)
        values, state = self.batch_values(seen, state, reward)
        return (values[0], tuple(part[0] for part in state)) if batch is None else (values, state)

    def _one(self, seen: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Compute the Q-values of one observation ``[1, ...]``."""
        with torch.inference_mode():  # a little faster than no_grad
            before = [torch.from_numpy(part).to(self._device) for part in state]
            values, after = self._single(self._inputs(seen)[0], before)
            return values[0].cpu().numpy(), tuple(part.cpu().numpy() for part in after)

    @torch.no_grad()
    def batch_values(
        self, seen: np.ndarray | dict[str, np.ndarray], state: State, reward: ArrayLike = 0.0
    ) -> tuple[np.ndarray, State]:
        """Compute the Q-values of a batch, without a check.

        Args:
            seen: observations of :func:`recdqn.envs.make_vector_env`.
            state: of the batch.
            reward: for the last actions, ``[batch]``.
        """
        inputs = self._inputs(seen)
        before = [torch.from_numpy(part).to(self._device) for part in state]
        if self._actions:
            action = before.pop()
            paid = torch.as_tensor(np.asarray(reward, np.float32), device=self._device).reshape(-1, 1)
            started = action.any(-1, keepdim=True)
            inputs.append(torch.cat([action, paid * self.cfg.reward_scale * started], -1))
        outputs, after = step(self._modules, inputs, before)
        values = outputs[-1].cpu().numpy()
        if isinstance(seen, dict) and MASK in seen:
            values = np.where(seen[MASK], values, ILLEGAL)
        result = [part.cpu().numpy() for part in after]
        if self._actions:
            result.append(np.eye(self._actions, dtype=np.float32)[values.argmax(-1)])
        return values, tuple(result)

    def _array(self, observation: Any) -> np.ndarray:
        try:
            seen = np.asarray(observation)
        except ValueError:  # lists of different lengths
            seen = None
        if seen is None or seen.dtype.kind not in "biuf":
            quoted = " ".join(show(observation).split())
            raise UserError(f"the observation {quoted}: expected numbers, {self._origin}")
        return seen

    def _batch(self, shape: tuple[int, ...], state: State) -> int | None:
        """Check the shapes of an observation and a state, and return their batch size, ``None`` for one."""
        for expected in self._shapes:
            if shape[-len(expected) :] == expected and len(shape) - len(expected) in (0, 1):
                batch = shape[0] if len(shape) > len(expected) else None
                break
        else:
            shapes = " or ".join(f"{one} or ({', '.join(map(str, ('batch', *one)))})" for one in self._shapes)
            raise UserError(f"an observation of shape {shape}: expected {shapes}, {self._origin}")
        self._check_state(state, batch)
        return batch

    def _check_state(self, state: State, batch: int | None) -> None:
        start = [size if batch is None else (batch, *size) for size in self._state_shapes]
        origin = f"from initial_state({batch or ''}) or the call before"
        if not isinstance(state, tuple | list):
            raise UserError(f"a state of type {type(state).__name__}: expected a tuple, {origin}")
        types = [getattr(part, "dtype", type(part).__name__) for part in state]
        if any(dtype != np.float32 for dtype in types):
            raise UserError(f"a state of types {[*map(str, types)]}: expected float32 of NumPy, {origin}")
        given = [part.shape for part in state]
        if given != start:
            raise UserError(f"a state of shapes {given}: expected {start}, {origin}")

    def _read(
        self, reader: Reader, observation: Any, mask: ArrayLike | None
    ) -> tuple[np.ndarray | dict[str, np.ndarray], int | None]:
        """Return what ``reader`` makes of an observation or of each of a batch, and the batch size."""
        space = self._declared[0]
        try:
            batch = batch_size(space, observation)
            several = (
                [observation] if batch is None else [element(space, observation, k) for k in range(batch)]
            )
            masks = [None] * len(several) if mask is None else np.atleast_2d(mask)
            rows = [reader(one, {self.cfg.mask: legal}) for one, legal in zip(several, masks, strict=True)]
        except (WrongObservation, KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"the agent was given {error}, as {self.cfg.id} never returns it") from None
        if isinstance(reader.space, Box):
            return np.stack(rows), batch
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}, batch

    @functools.cached_property
    def _declared(self) -> tuple[Any, Any]:
        return declared_spaces(self.cfg)

    def _legal(self, mask: ArrayLike | None, batch: int) -> np.ndarray:
        """Return a mask that comes beside a picture, ``[batch, actions]``."""
        masks = [None] * batch if mask is None else np.atleast_2d(mask)
        try:
            return np.stack([self._whole.legal(one) for one, _ in zip(masks, range(batch), strict=True)])
        except (WrongObservation, ValueError) as error:
            raise UserError(f"the agent was given {error}, as {self.cfg.id} never returns it") from None

    @functools.cached_property
    def _whole(self) -> Any:
        """What reads one observation of the environment; ``None`` if it is a plain vector."""
        observations, actions = self._declared
        return reader_of(observations, self.cfg, math.prod(sizes(actions) or []))

    @functools.cached_property
    def _reader(self) -> Reader | None:
        """What reads observations; ``None`` if they are vectors, or the small picture of a frame."""
        return None if self.cfg.observation == "pixels" or self.cfg.stack > 1 else self._whole

    @functools.cached_property
    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of one observation."""
        shapes: list[tuple[int, ...]] = []
        if self.cfg.observation == "pixels":
            shapes.append((1, self.cfg.image_size, self.cfg.image_size))
        else:
            stack = () if self.cfg.stack == 1 else (self.cfg.stack,)
            space = self._declared[0] if self._whole is None else self._whole.space
            shapes.append((*stack, *space.shape))
        return shapes

    @property
    def _origin(self) -> str:
        """Where one observation comes from."""
        if self.cfg.observation == "pixels":
            return "a picture of recdqn.envs.RenderedPixels"
        if self.cfg.stack > 1:
            return f"the last {self.cfg.stack} observations of {self.cfg.id}"
        return f"as {self.cfg.id} returns it"

    def _inputs(self, seen: np.ndarray | dict[str, np.ndarray]) -> list[Tensor]:
        """Return what the first module reads of the observation."""
        if not isinstance(seen, dict):
            seen = {self._keys[0]: seen}
        return [
            self._scaled(seen[key]) if key == "observation" else torch.from_numpy(seen[key]).to(self._device)
            for key in self._keys
        ]

    def _scaled(self, seen: np.ndarray) -> Tensor:
        if self._visible is not None:
            seen = seen[..., self._visible]
        value = torch.from_numpy(seen).to(self._device).float() * self._scale + self._loc
        return value if value.ndim == 2 else value.flatten(1)
