"""The parts under examination: copies of them, and what running the copies shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import ReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.envs.common import EnvBase
from torchrl.objectives.utils import TargetNetUpdater

from recdqn.doctor import internals
from recdqn.doctor.copies import copy_env, copy_part, reachable_modules
from recdqn.doctor.probe import LossProbe, Skip
from recdqn.doctor.rollout import Rollout, StepRecord, record_rollout
from recdqn.doctor.slices import slice_indices
from recdqn.doctor.stored import sampled_indices, stored_rows
from recdqn.errors import first_line
from recdqn.flow import recurrent_keys

BATCHES = 10  # sampled from a buffer
FLAGS = {"is_init", "done", "terminated", "truncated", "step_count", "reward"}  # no observations


class Subject:
    """The parts given to :func:`recdqn.doctor.diagnose`; each is copied when it is first used.

    Attributes:
        given: the parts themselves, by name. Checks do not change them.
        frames: environment steps that training will take, if known.
        running: name of the copy that was used last.
        slow: parts that took too long, each with the reason why no more checks use them.
    """

    def __init__(self, frames: int | None = None, **parts: Any) -> None:
        self.given = parts
        self.frames = frames
        self.running = ""
        self.slow: dict[str, str] = {}

    def has(self, names: str) -> bool:
        """Return whether a part was given, or either of ``"one or another"``; a buffer provides a batch."""
        wanted = set(names.split(" or "))
        return bool(wanted & self.given.keys()) or ("batch" in wanted and "buffer" in self.given)

    @property
    def env(self) -> EnvBase:
        """Copy of the environment."""
        self.running = "env"
        return self._env

    @cached_property
    def _env(self) -> EnvBase:
        try:
            env = copy_env(self.given["env"])
            return env if env.device is None else env.to("cpu")
        except Exception as error:
            raise Skip(f"the environment cannot be copied ({first_line(error)})") from None

    @property
    def policy(self) -> TensorDictModule:
        """Copy of the policy in evaluation mode; dropout and batch norm have a check of their own."""
        self.running = "policy"
        return self._policy

    @cached_property
    def _policy(self) -> TensorDictModule:
        return copy_part(self.given["policy"]).eval()

    @property
    def loss(self) -> Callable[[TensorDictBase], Any]:
        """Copy of the loss, in evaluation mode if it has one."""
        self.running = "loss"
        return self._loss

    @cached_property
    def _loss(self) -> Callable[[TensorDictBase], Any]:
        loss = copy_part(self.given["loss"])
        for module in reachable_modules(loss):
            module.eval()
            for part in vars(module).values():  # TorchRL's losses keep their networks out of their modules
                if isinstance(part, nn.Module):
                    part.eval()
        return loss

    @property
    def probe(self) -> LossProbe:
        """The errors of :attr:`loss` for :attr:`batch`."""
        self.running = "loss"
        return self._probe

    @cached_property
    def _probe(self) -> LossProbe:
        return LossProbe(self.loss, self.batch)

    @cached_property
    def updater(self) -> TargetNetUpdater:
        """Copy of the target updater, with a copy of its loss."""
        return copy.deepcopy(self.given["updater"])

    @cached_property
    def buffer(self) -> ReplayBuffer:
        """Second view of the buffer's storage."""
        self.running = "buffer"
        if len(self.given["buffer"]) == 0:
            raise Skip("the buffer is empty")
        return internals.copy_buffer(self.given["buffer"])

    @cached_property
    def batches(self) -> list[TensorDictBase]:
        """The given batch, then batches sampled from the buffer."""
        batches = [self.given["batch"].to_tensordict().cpu()] if "batch" in self.given else []
        if "buffer" in self.given:
            batches += [self._sample() for _ in range(BATCHES)]
        return batches

    def _sample(self) -> TensorDictBase:
        buffer = self.buffer
        self.running = "buffer"
        batch, info = buffer.sample(return_info=True)
        if "index" not in batch.keys():  # a plain ReplayBuffer does not write it into the batch
            index = sampled_indices(info)
            if len(index) == batch.numel():
                batch["index"] = index.reshape(*batch.shape, -1)
        return batch.cpu()

    @property
    def batch(self) -> TensorDictBase:
        """The first of :attr:`batches`."""
        return self.batches[0]

    @cached_property
    def slices(self) -> list[Tensor]:
        """Indices of each slice's steps in the flat :attr:`batch`."""
        return slice_indices(self.batch)

    @cached_property
    def rollout(self) -> Rollout:
        """Rollout of the environment, with the policy if there is one."""
        acts = self.has("policy") and "policy" not in self.slow
        try:
            start = self.env.reset()
        except Exception as error:
            raise Skip(f"the environment does not reset ({first_line(error)})") from None

        def act(td: TensorDictBase) -> TensorDictBase:
            out = self.policy(td)
            self.running = "env"
            return out

        return record_rollout(self.env, start, act if acts else None)

    @property
    def steps(self) -> list[StepRecord]:
        """Steps of :attr:`rollout`."""
        if not self.rollout.steps:
            raise Skip(f"the environment does not step ({self.rollout.env_error})")
        return self.rollout.steps

    @cached_property
    def env_rows(self) -> list[TensorDictBase]:
        """The rollout as rows ``[T]``, one for each environment, with what the environment returned."""
        return list(torch.stack([step.taken for step in self.steps]).reshape(len(self.steps), -1).unbind(1))

    @cached_property
    def rows(self) -> list[TensorDictBase]:
        """The stored steps as rows ``[T]`` in the order of time, without the buffer's transforms."""
        return stored_rows(self.buffer)

    @cached_property
    def state_keys(self) -> list[tuple[NestedKey, NestedKey]]:
        """Key from which each recurrent state is read, and key to which it is written.

        The policy decides, or else the network of the loss.
        """
        pairs: list[tuple[NestedKey, NestedKey]] = []
        for network in self.networks:
            pairs += recurrent_keys(network)
            for key in network.in_keys:
                following = unravel_key(("next", key))
                if following in network.out_keys and key not in [read for read, _ in pairs]:
                    pairs.append((key, following))
        if not pairs and self.has("policy") and "is_init" in self.policy.in_keys and self.has("env"):
            pairs += self._state_keys_by_behaviour()
        return pairs

    def _state_keys_by_behaviour(self) -> list[tuple[NestedKey, NestedKey]]:
        """States of a policy that does not write them where ``step_mdp`` would find them.

        A state is an input that does not come from the base environment. Either the policy writes it as well,
        or it keeps the value that it had after the reset while the policy writes another entry of its shape.
        """
        base = self.env.base_env if isinstance(self.env, TransformedEnv) else self.env
        observations = {"is_init", "action", *base.observation_spec.keys(True, True)}
        after = self.steps[0].after
        pairs = []
        for key in self.policy.in_keys:
            values = [step.before.get(key, None) for step in self.steps]
            if key in observations or any(value is None for value in values):
                continue
            outputs = [k for k in self.policy.out_keys if k != "action" and after[k].shape == values[0].shape]
            if key in self.policy.out_keys:
                pairs.append((key, key))
            elif outputs and all(torch.equal(value, values[0]) for value in values):
                pairs.append((key, outputs[0]))
        return pairs

    @cached_property
    def action_key(self) -> NestedKey:
        """Key of the actions."""
        if self.has("env"):
            return self.env.action_keys[0]
        keys = [unravel_key(key) for network in self.networks for key in network.out_keys]
        found = [key for key in keys if (key if isinstance(key, str) else key[-1]) == "action"]
        for network in self.networks:  # modules that explore have the key as an attribute
            named = [getattr(module, "action_key", None) for module in network.modules()]
            found += [key for key in named if key is not None and unravel_key(key) in keys]
        return found[0] if found else "action"

    @property
    def state_inputs(self) -> list[NestedKey]:
        """Keys from which the recurrent states are read."""
        return [read for read, _ in self.state_keys]

    @property
    def policy_observations(self) -> list[NestedKey]:
        """Keys of the observations that the policy, or else the loss's network, reads."""
        other = ("is_init", self.action_key, *self.state_inputs)
        return [key for network in self.networks for key in network.in_keys if key not in other]

    @property
    def batch_observations(self) -> list[NestedKey]:
        """Keys of the observations in the batch.

        Without a network that reads them, these are the entries that are also under ``"next"``.
        """
        if self.policy_observations:
            return [key for key in self.policy_observations if self.batch.get(key, None) is not None]
        keys = [k for k in map(unravel_key, self.batch.keys(True, True)) if k not in FLAGS and k[0] != "next"]
        twice = [k for k in keys if self.batch.get(unravel_key(("next", k)), None) is not None]
        return [k for k in twice if "recurrent_state" not in str(k) and "mask" not in str(k)]

    @property
    def networks(self) -> list[TensorDictModuleBase]:
        """The policy, or else the networks of the loss."""
        if self.has("policy"):
            return [self.policy]
        parts = vars(self.loss).values() if self.has("loss") and hasattr(self.loss, "__dict__") else ()
        return [part for part in parts if isinstance(part, TensorDictModuleBase)]

    def policy_inputs(self, count: int) -> TensorDictBase:
        """Return steps ``[count]`` that the policy can read, none of them marked in ``"is_init"``."""
        found = [step.before for step in self.steps] if self.has("env") else [self.batch]
        keys = [key for key in self.policy.in_keys if found[0].get(key, None) is not None]
        steps: TensorDictBase = torch.cat([td.select(*keys).reshape(-1) for td in found])
        if len(steps) < count:
            raise Skip("there are too few steps")
        steps = steps[:count]
        steps["is_init"] = torch.zeros(count, 1, dtype=torch.bool)
        return steps

    def policy_outputs(self, td: TensorDictBase, policy: TensorDictModule | None = None) -> Tensor:
        """Return the policy's last output for each step, actions and states excluded, ``[n, ...]``.

        Args:
            td: steps.
            policy: another copy of the policy than :attr:`policy`.
        """
        torch.manual_seed(0)
        out = (policy or self.policy)(td.clone())
        skip = {"action", self.action_key, *self.state_inputs, *(write for _, write in self.state_keys)}
        for key in reversed(self.policy.out_keys):
            if key not in skip and out[key].is_floating_point():
                return out[key].reshape(len(td), -1)
        raise Skip("the policy has no outputs but actions and states")
