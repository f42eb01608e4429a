"""Gymnasium environments as one TorchRL environment that writes every entry itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Dict
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase, TransformedEnv

from recdqn.config import EnvConfig
from recdqn.envs.entries import MASK

Array = TypeVar("Array", Tensor, np.ndarray)


def hide_velocities(observation: Array, visible: Sequence[int] = (0, 2)) -> Array:
    """Keep the cart's position and the pole's angle, or other entries: ``[..., 4]`` becomes ``[..., 2]``."""
    return observation[..., list(visible)]


class GymnasiumEnv(EnvBase):
    """One Gymnasium environment, or several that step together, as TorchRL sees them.

    It writes what ``GymWrapper`` and the transforms ``UnaryTransform(fn=hide_velocities)``,
    ``ObservationNorm``, ``RewardScaling``, ``StepCounter`` and ``InitTracker`` would write, in one call
    instead of six. It names no device: with ``device="cpu"`` TorchRL would copy every entry at every step.

    Args:
        env: with ``Discrete`` actions. Observations are vectors ``[n]`` or ``[stack, n]``, float32, or a
            ``Dict`` as that of :class:`recdqn.envs.entries.Reader`, in new arrays at each step. A vector of
            environments must not reset by itself.
        cfg: what is visible, and how observations and rewards are scaled.

    Attributes:
        gym: ``env``.

    Example:
        >>> env = GymnasiumEnv(gym.make("CartPole-v1"), EnvConfig(num_envs=1, scale=(1.0,), loc=(0.0,)))
        >>> env.rollout(3)["next", "step_count"].flatten().tolist()
        [1, 2, 3]
    """

    def __init__(self, env: gym.Env | gym.vector.VectorEnv, cfg: EnvConfig) -> None:
        space: Any
        actions: Any
        if isinstance(env, gym.vector.VectorEnv):
            super().__init__(batch_size=[env.num_envs])
            space, actions = env.single_observation_space, env.single_action_space
        else:
            super().__init__(batch_size=[])
            space, actions = env.observation_space, env.action_space
        self.gym = env
        self._visible = cfg.visible if cfg.observation == "masked" else None
        self._loc, self._scale = np.array(cfg.loc, np.float32), np.array(cfg.scale, np.float32)
        self._reward_scale = cfg.reward_scale

        batch = self.batch_size
        flag = Categorical(2, shape=(*batch, 1), dtype=torch.bool)
        count = Bounded(0, torch.iinfo(torch.int64).max, shape=(*batch, 1), dtype=torch.int64)
        seen: dict[str, TensorSpec] = {}
        self._single = not isinstance(space, Dict)  # a vector alone
        for key, part in [("observation", space)] if self._single else space.spaces.items():
            if key == "observation":
                size = part.shape[-1] if self._visible is None else len(self._visible)
                seen[key] = Unbounded((*batch, size * math.prod(part.shape[:-1])), dtype=torch.float32)
            elif key == "codes":
                high = int(part.high.max())
                seen[key] = Bounded(0, high, shape=(*batch, *part.shape), dtype=torch.int32)
            else:
                dtype = torch.bool if key == MASK else torch.uint8
                seen[key] = Unbounded((*batch, *part.shape), dtype=dtype)
        self._keys = list(seen)
        self._actions = int(actions.n)
        self._start: dict[str, Tensor] = {}  # what the policy sees of its previous step when there is none
        if cfg.previous:
            seen["previous"] = Unbounded((*batch, self._actions + 1), dtype=torch.float32)
            self._start["previous"] = torch.zeros(*batch, self._actions + 1, dtype=torch.float32)
        self.observation_spec = Composite(**seen, step_count=count, is_init=flag, shape=batch)
        self.state_spec = Composite(step_count=count, shape=batch)
        self.action_spec = OneHot(self._actions, shape=(*batch, self._actions), dtype=torch.int64)
        self.reward_spec = Unbounded((*batch, 1), dtype=torch.float32)
        self.done_spec = Composite(done=flag, terminated=flag, truncated=flag, shape=batch)
        self._no = torch.zeros((*batch, 1), dtype=torch.bool)

    def render(self) -> Any:
        """Return a frame ``[height, width, 3]`` of a single environment, uint8."""
        return self.gym.render()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the Gymnasium environment."""
        super().close(raise_if_closed=raise_if_closed)
        self.gym.close()

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action; ``EnvBase`` would walk through its whole input spec for it."""
        td = TensorDict({}, self.batch_size) if tensordict is None else tensordict
        legal = td.get(MASK, None)
        if legal is None:
            choice = torch.randint(self._actions, self.batch_size, device=self.device)
        else:
            choice = legal.float().reshape(-1, self._actions).multinomial(1).reshape(self.batch_size)
        return td.set("action", torch.nn.functional.one_hot(choice, self._actions))

    def _set_seed(self, seed: int | None) -> None:
        self.gym.reset(seed=seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        return TensorDict(self.begin(mask, **kwargs), self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        entries = self.advance(tensordict.get("action"), tensordict.get("step_count"))
        return TensorDict(entries, self.batch_size, device=self.device)

    def begin(self, mask: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Reset on plain tensors.

        Args:
            mask: the environments to reset, bool ``[num_envs, 1]``; ``None`` for all. Only their entries mean
                something in the result.
            kwargs: of Gymnasium's ``reset``.
        """
        if mask is None or not self.batch_size:
            mask = ~self._no  # all
        else:
            kwargs["options"] = {"reset_mask": mask[..., 0].cpu().numpy()}
        seen, _ = self.gym.reset(**kwargs)
        return {
            **self._seen(seen),
            **self._start,
            "step_count": torch.zeros_like(mask, dtype=torch.int64),
            "is_init": mask.clone(),
            "done": self._no.clone(),
            "terminated": self._no.clone(),
            "truncated": self._no.clone(),
        }

    def advance(self, action: Tensor, step_count: Tensor) -> dict[str, Tensor]:
        """Step on plain tensors.

        Args:
            action: one-hot, ``[..., actions]``.
            step_count: environment steps before this one, ``[..., 1]``.
        """
        chosen = action.argmax(-1).cpu().numpy()[()]  # of a single environment a number
        seen, reward, terminated, truncated, _ = self.gym.step(chosen)
        over, late = self._column(terminated, torch.bool), self._column(truncated, torch.bool)
        scaled = self._column(reward, torch.float32) * self._reward_scale
        return {
            **self._seen(seen),
            **{key: torch.cat([action.float(), scaled], -1) for key in self._start},
            "step_count": step_count + 1,
            "is_init": self._no.clone(),
            "reward": scaled,
            "terminated": over,
            "truncated": late,
            "done": over | late,
        }

    def _step_proc_data(self, next_tensordict_out: TensorDictBase) -> TensorDictBase:
        return next_tensordict_out  # EnvBase would look for missing entries and other shapes

    def _column(self, values: Any, dtype: torch.dtype) -> Tensor:
        """Return one number, or one for each environment, as ``[..., 1]``."""
        if not self.batch_size:
            return torch.tensor([values], dtype=dtype)
        return torch.as_tensor(values, dtype=dtype)[:, None]

    def _seen(self, seen: Any) -> dict[str, Tensor]:
        if self._single:
            return {"observation": self._scaled(seen)}
        return {
            key: self._scaled(seen[key]) if key == "observation" else torch.from_numpy(seen[key])
            for key in self._keys
        }

    def _scaled(self, seen: np.ndarray) -> Tensor:
        if self._visible is not None:
            seen = hide_velocities(seen, self._visible)
        scaled = seen * self._scale + self._loc
        return torch.from_numpy(scaled).reshape(*self.batch_size, -1)


class OpenEnv(TransformedEnv):
    """A ``TransformedEnv`` that costs nothing until a transform is appended."""

    def step(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Step, through the transforms if there are any."""
        if len(self.transform):
            return super().step(tensordict)
        return self.base_env.step(tensordict)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Step and reset where an episode is done, through the transforms if there are any."""
        if len(self.transform):
            return super().step_and_maybe_reset(tensordict)
        return self.base_env.step_and_maybe_reset(tensordict)

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action in the format of the action spec."""
        if len(self.transform):
            return EnvBase.rand_action(self, tensordict)  # from its own spec: a transform may change actions
        return self.base_env.rand_action(tensordict)
