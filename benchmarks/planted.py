"""Wrong parts, for ``benchmarks.bugs`` and the tests of the doctor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleWrapper, TensorDictSequential
from torch import Tensor, nn
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.envs import Compose, Transform, UnaryTransform
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import DQNLoss

from recdqn.replay import DONE, SliceReplayBuffer


def changed(fn: Callable[[Tensor], Tensor], *keys: NestedKey) -> Compose:
    """Return a transform that changes entries: of an environment's steps, or of a buffer's batches."""
    return Compose(*(UnaryTransform(in_keys=[key], out_keys=[key], fn=fn) for key in keys))


class Keep(Transform):
    """Give a new episode the last state of the previous one."""

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        self.last = {key: next_tensordict.get(key).clone() for key in self.in_keys}
        return next_tensordict

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        for key in self.in_keys:
            if hasattr(self, "last"):
                tensordict_reset.set(key, self.last[key])
        return tensordict_reset


class LateReward(Transform):
    """Give each step the reward of the step before it, and the first step of an episode none."""

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        reward = next_tensordict.get("reward")
        before = getattr(self, "before", torch.zeros_like(reward))
        next_tensordict.set("reward", torch.where(tensordict["step_count"] == 0, 0.0, before))
        self.before = reward.clone()
        return next_tensordict

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return tensordict_reset


class StoreEntries(Transform):
    """Store other entries than those that were collected.

    Args:
        pairs: the key that is written, and the one that is read, each.
    """

    def __init__(self, *pairs: tuple[NestedKey, NestedKey]) -> None:
        super().__init__()
        self.pairs = pairs

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        values = {to: tensordict.get(source) for to, source in self.pairs}
        return tensordict.clone(recurse=False).update(values)


class SometimesRandom(nn.Module):
    """Exploration that ignores the exploration type.

    Args:
        share: of random actions.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, action: Tensor) -> Tensor:
        """Replace some of the one-hot actions ``[..., actions]``."""
        number = action.shape[-1]
        other = nn.functional.one_hot(torch.randint(number, action.shape[:-1]), number)
        return torch.where(torch.rand(*action.shape[:-1], 1) < self.share, other, action)


def always_exploring(policy: TensorDictSequential, share: float = 0.1) -> TensorDictSequential:
    """Replace the exploration of a policy by one that ignores the exploration type."""
    explore = TensorDictModule(SometimesRandom(share), ["action"], ["action"])
    return TensorDictSequential(*policy[:-1], explore)


class RecurrentMode(TensorDictModuleWrapper):
    """A policy that acts in recurrent mode: its recurrent layer takes the environments for time."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Act for one step of all environments."""
        with set_recurrent_mode(True):
            return self.td_module(tensordict)


class StepByStep(DQNLoss):
    """One-step double Q-learning of each step by itself, from the states that were stored with it."""

    def __init__(self, *args: Any, gamma: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.discount = gamma

    def forward(self, tensordict: TensorDictBase) -> dict[str, Tensor]:
        """Return the loss of a batch, and write the errors of its steps into it."""
        after = tensordict["next"]

        def values(steps: TensorDictBase, params: Any) -> Tensor:
            with set_recurrent_mode(False), params.to_module(self.value_network):
                return self.value_network(steps.select(*self.value_network.in_keys))["action_value"]

        chosen = (values(tensordict, self.value_network_params) * tensordict["action"]).sum(-1)
        with torch.no_grad():
            best = values(after, self.value_network_params).argmax(-1, keepdim=True)
            bootstrap = values(after, self.target_value_network_params).gather(-1, best)
            target = after["reward"] + torch.where(after["terminated"], 0.0, self.discount * bootstrap)
        error = (chosen - target.squeeze(-1)).square()
        tensordict.set("td_error", error.detach().unsqueeze(-1))
        return {"loss": error.mean()}


def share_target(loss: DQNLoss) -> None:
    """Let the target network of a loss be its online network."""
    target = loss.target_value_network_params
    for key, value in loss.value_network_params.items(True, True):
        target.get(key).data = value.data


class Windows(Sampler):
    """Consecutive indices that end nowhere, not even at the newest step, marked where they start.

    Args:
        length: indices of a slice.
        first: the first one of a batch; at random places if none is given.
    """

    def __init__(self, length: int = 8, first: int | None = None) -> None:
        super().__init__()
        self.length, self.first = length, first

    def sample(self, storage: Any, batch_size: int) -> tuple[Any, dict[NestedKey, Tensor]]:
        """Draw slices, each in one environment if there are several."""
        number, slices = torch.arange(batch_size) % self.length, batch_size // self.length
        rows = len(storage[:])
        first = torch.randint(max(rows - self.length + 1, 1), (slices,))
        if self.first is not None:
            first = torch.full((slices,), self.first)
        row = (first.repeat_interleave(self.length) + number) % rows
        starts = (number == 0).unsqueeze(-1)
        if storage.ndim == 1:
            return row, {"is_init": starts}
        index = row, torch.randint(storage.shape[1], (slices,)).repeat_interleave(self.length)
        stored = storage.get(index)
        ends = (number == self.length - 1).unsqueeze(-1)
        return index, {"is_init": stored["is_init"] | starts, DONE: stored[DONE] | ends}

    def _empty(self) -> None:
        pass

    state_dict = load_state_dict = dumps = loads = None


class EndToEnd(SliceReplayBuffer):
    """A buffer ``[steps]`` that lays the rows of several environments end to end.

    ``"ended"`` numbers the episodes as if only a done step ended one.
    """

    def extend(self, tensordict: TensorDictBase, **kwargs: Any) -> Tensor:
        """Store steps ``[num_envs, T]``."""
        steps = tensordict.reshape(-1)
        done = steps[DONE].reshape(-1).long()
        number = done.cumsum(0) - done + getattr(self, "ended", 0)  # of the episode, if only done ends one
        self.ended = int(number[-1] + done[-1])
        return super().extend(steps.set("ended", number), **kwargs)


class Unmarked(SliceReplayBuffer):
    """A buffer that leaves out the sampler's marks, as TorchRL's ``ReplayBuffer`` does."""

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Any:
        """Draw a batch of slices, with the flags as they were stored."""
        index, info = self.sampler.sample(self.storage, batch_size or self.batch_size)
        batch = self.transform(self.storage.get(index))
        return (batch, info) if return_info else batch
