"""A collector that steps the package's environments and policies on plain tensors."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, TensorDictPrimer, Transform
from torchrl.envs.utils import ExplorationType
from torchrl.modules import EGreedyModule, QValueModule

from recdqn.envs import GymnasiumEnv, OpenEnv
from recdqn.errors import UserError
from recdqn.policy.modules import modules_of, recurrent_cell
from recdqn.policy.plain import chain, state_count, step

Entries = dict[str, Tensor]


class PlainCollector(Collector):
    """A ``Collector`` that needs half the time for an environment and a policy of this package.

    It collects the same steps, bit for bit, and draws the same random numbers, but builds one TensorDict for
    a collection instead of about twenty for each step. With any other environment or policy, and on a GPU,
    it is TorchRL's ``Collector``.

    Args:
        env, policy, kwargs: as for ``Collector``.
    """

    _carrier: TensorDictBase  # TorchRL's: the entries of the next step

    def __init__(self, env: EnvBase, policy: TensorDictModuleBase, **kwargs: Any) -> None:
        super().__init__(env, policy, **kwargs)
        self.walker = Walker.of(self.env, policy)

    def rollout(self) -> TensorDictBase:
        """Collect one batch of steps, ``[T]`` or ``[num_envs, T]``."""
        if self.walker is None or self.exploration_type != ExplorationType.RANDOM:
            return super().rollout()
        carrier, walker = self._carrier, self.walker
        now = {key: carrier.get(key) for key in walker.keys}
        trajectory = carrier.get(("collector", "traj_ids"))
        steps: list[dict[str, Any]] = []
        with torch.no_grad():
            for _ in range(self.frames_per_batch):
                acted, states = walker.act(now)
                following = walker.env.advance(acted["action"], now["step_count"]) | states
                steps.append({**now, **acted, "collector": {"traj_ids": trajectory}, "next": following})
                now = {key: following[key] for key in walker.keys}
                done = following["done"]
                if done.any():
                    now = walker.reset(now, done)
                    new = self._traj_pool.get_traj_and_increment(done.sum())
                    trajectory = trajectory.masked_scatter(done.squeeze(-1), new)
        self._carrier = TensorDict({**now, "collector": {"traj_ids": trajectory}}, carrier.batch_size)
        dim = carrier.ndim
        return TensorDict(_stacked(steps, dim), [*carrier.batch_size, len(steps)])


def _stacked(steps: list[dict[str, Any]], dim: int) -> dict[str, Any]:
    return {
        key: _stacked([one[key] for one in steps], dim)
        if isinstance(value, dict)
        else torch.stack([one[key] for one in steps], dim)
        for key, value in steps[0].items()
    }


class Walker:
    """Steps an environment of ``make_env`` with a policy of ``make_policy`` on plain tensors.

    Attributes:
        env: the environment below the primers.
        keys: the entries that a step begins with.
    """

    def __init__(self, env: GymnasiumEnv, modules: list[Any], exploration: EGreedyModule) -> None:
        self.env, self._modules, self._exploration = env, modules, exploration
        self._states = recurrent_keys(modules)
        self._names = [module.out_keys[0] for module in modules]
        cell = recurrent_cell(modules[0])
        self._seen = modules[0].in_keys if cell is None else modules[0].in_keys[:1]
        self.keys = [*self._seen, "step_count", "is_init", "done", "terminated", "truncated", *self._states]

    @staticmethod
    def of(env: EnvBase, policy: TensorDictModuleBase) -> Walker | None:
        """Return a walker, or ``None`` if the environment or the policy is not one of the package."""
        try:
            modules = chain(policy)
        except UserError:
            return None
        states = recurrent_keys(modules)
        values = modules[-1].out_keys[0]
        after = list(modules_of(policy))[len(modules) :]
        rest = [(type(module), module.in_keys, module.out_keys) for module in after]
        ours = (
            type(env) is OpenEnv
            and type(env.base_env) is GymnasiumEnv
            and sum([_zeros(transform) for transform in env.transform], []) == states
            and all(_zeros(transform) for transform in env.transform)
            and rest
            == [
                (QValueModule, [values], ["action", values, "chosen_action_value"]),
                (EGreedyModule, ["action"], ["action"]),
            ]
            and all(tensor.device.type == "cpu" for tensor in policy.state_dict().values())
        )
        return Walker(env.base_env, modules, after[-1]) if ours else None

    def act(self, now: Entries) -> tuple[Entries, Entries]:
        """Return the entries that the policy writes at the root, and those under ``"next"``."""
        batch = self.env.batch_size
        first = now["is_init"].reshape(-1, 1, 1)
        states = [torch.where(first, 0.0, now[key].reshape(-1, *now[key].shape[-2:])) for key in self._states]
        seen = [now[key] if batch else now[key][None] for key in self._seen]
        outputs, after = step(self._modules, seen, states)
        acted = {name: out.reshape(*batch, -1) for name, out in zip(self._names, outputs, strict=True)}
        values = acted[self._names[-1]]
        greedy = (values == values.amax(-1, keepdim=True)).long()
        acted["chosen_action_value"] = (greedy * values).sum(-1, True)
        explores = torch.rand(batch, dtype=torch.float32) < self._exploration.eps
        number = values.shape[-1]
        other = torch.nn.functional.one_hot(torch.randint(number, batch), number)
        acted["action"] = torch.where(explores[..., None], other, greedy)
        shapes = [now[key].shape for key in self._states]
        return acted, {
            key: state.reshape(shape) for key, state, shape in zip(self._states, after, shapes, strict=True)
        }

    def reset(self, now: Entries, done: Tensor) -> Entries:
        """Begin new episodes where ``done``, and return the entries of the next step."""
        new = self.env.begin(done)
        for key in self._states:
            new[key] = torch.zeros_like(now[key])
        return {
            key: torch.where(done.reshape(done.shape + (1,) * (old.ndim - done.ndim)), new[key], old)
            for key, old in now.items()
        }


def recurrent_keys(modules: list[Any]) -> list[Any]:
    """Return the keys of the recurrent states that ``modules`` read and write under ``"next"``, in order."""
    keys: list[Any] = []
    for module in modules:
        if (cell := recurrent_cell(module)) is not None:
            read = module.in_keys[1 : 1 + state_count(cell)]
            keys += read if module.out_keys[1:] == [("next", key) for key in read] else [None]
    return keys


def _zeros(transform: Transform) -> list[Any]:
    """Return the entries that a transform sets to zero at a reset, if it does nothing else."""
    if type(transform) is not TensorDictPrimer or transform.random:
        return []
    keys = list(transform.primers.keys(True, True))
    return keys if all(transform.default_value.get(key) == 0.0 for key in keys) else []
