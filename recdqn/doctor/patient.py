"""Copies of a pipeline's parts, and experiments on them (the field guide)."""

from __future__ import annotations

import contextlib
import copy
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torchrl.data import ReplayBuffer
from torchrl.envs import SerialEnv, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.common import EnvBase
from torchrl.modules import set_recurrent_mode

from recdqn.flow import recurrent_keys

STEPS = 300  # of a walk, for each environment; it stops early when it has seen enough
SECONDS = 2.5  # of a walk
EPISODES = 3  # ends of episodes that a walk waits for
BATCHES = 10  # sampled from a buffer
MASKS = (("collector", "mask"), "mask")  # where TorchRL marks padding


class Skip(Exception):
    """A check has nothing to look at; the message says why."""


@dataclass(frozen=True)
class Moment:
    """One step of a walk.

    Attributes:
        before: what the policy read, ``[*batch]``.
        after: what it left.
        ended: whether the episode ended with this step, ``[*batch]``.
        following: what the next step begins with.
    """

    before: TensorDictBase
    after: TensorDictBase
    ended: Tensor
    following: TensorDictBase


class Patient:
    """The parts that were given to the doctor, copied, and what running them shows."""

    def __init__(self, **parts: Any) -> None:
        self.given = parts
        self.trouble: str | None = None  # what the policy raised in the walk

    def has(self, names: str) -> bool:
        """Whether a part was given, or one of ``"this or that"``; a buffer gives a batch."""
        wanted = set(names.split(" or "))
        return bool(wanted & self.given.keys()) or ("batch" in wanted and "buffer" in self.given)

    @cached_property
    def env(self) -> EnvBase:
        """The copy of the environment."""
        try:
            env = copy_env(self.given["env"])
            return env if env.device is None else env.to("cpu")
        except Exception as error:
            raise Skip(f"the environment cannot be copied ({first_line(error)})") from None

    @cached_property
    def policy(self) -> TensorDictModule | None:
        """The copy of the policy, if there is one."""
        return _on_cpu(copy.deepcopy(self.given.get("policy")))

    @cached_property
    def loss(self) -> Callable[[TensorDictBase], Any]:
        """The copy of the loss."""
        return _on_cpu(copy.deepcopy(self.given["loss"]))

    @cached_property
    def buffer(self) -> ReplayBuffer:
        """Another view of the buffer's storage."""
        if len(self.given["buffer"]) == 0:
            raise Skip("the buffer is empty")
        return copy_buffer(self.given["buffer"])

    @cached_property
    def batches(self) -> list[TensorDictBase]:
        """The batch that was given, and some from the buffer."""
        batches = [self.given["batch"].clone().cpu()] if "batch" in self.given else []
        if "buffer" in self.given:
            for _ in range(BATCHES):
                batch, info = self.buffer.sample(return_info=True)
                if "index" not in batch.keys():  # a plain ReplayBuffer keeps what the sampler says to itself
                    index = info["index"]
                    index = torch.stack(index, -1) if isinstance(index, tuple) else torch.as_tensor(index)
                    if len(index) == batch.numel():
                        batch["index"] = index.reshape(*batch.shape, -1)
                batches.append(batch.cpu())
        return batches

    @property
    def batch(self) -> TensorDictBase:
        """The first of them."""
        return self.batches[0]

    @cached_property
    def slices(self) -> list[Tensor]:
        """The places of each slice's steps in the flat batch."""
        row, real = starts(self.batch).cumsum(0) - 1, is_real(self.batch)
        return [((row == k) & real).nonzero().squeeze(-1) for k in range(int(row.max()) + 1)]

    @cached_property
    def pairs(self) -> list[tuple[NestedKey, NestedKey]]:
        """Where each recurrent state is read and where it is written, by the policy or else by the loss."""
        pairs: list[tuple[NestedKey, NestedKey]] = []
        for network in self._networks:
            pairs += recurrent_keys(network)
            for key in network.in_keys:
                following = unravel_key(("next", key))
                if following in network.out_keys and key not in [read for read, _ in pairs]:
                    pairs.append((key, following))
        if not pairs and self.policy is not None and "is_init" in self.policy.in_keys and self.has("env"):
            pairs += self._pairs_by_behaviour()
        return pairs

    def _pairs_by_behaviour(self) -> list[tuple[NestedKey, NestedKey]]:
        """States of a policy that names none of them as ``step_mdp`` would need it.

        A state is read, it does not come from the base environment, and either the policy writes it itself,
        or it stays as a reset left it while the policy writes another entry of its shape.
        """
        policy, walk = self.policy, self.walk
        base = self.env.base_env if isinstance(self.env, TransformedEnv) else self.env
        world = {"is_init", "action", *base.observation_spec.keys(True, True)}
        pairs = []
        for key in policy.in_keys:
            values = [moment.before.get(key, None) for moment in walk]
            if key in world or any(value is None for value in values):
                continue
            after = walk[0].after
            alike = [k for k in policy.out_keys if k != "action" and after[k].shape == values[0].shape]
            if key in policy.out_keys:
                pairs.append((key, key))
            elif alike and all(torch.equal(value, values[0]) for value in values):
                pairs.append((key, alike[0]))
        return pairs

    @property
    def states(self) -> list[NestedKey]:
        """Where each recurrent state is read."""
        return [read for read, _ in self.pairs]

    @property
    def observed(self) -> list[NestedKey]:
        """What the policy reads of the world."""
        other = ("is_init", "action", *self.states)
        return [key for network in self._networks for key in network.in_keys if key not in other]

    @property
    def world_keys(self) -> list[NestedKey]:
        """The same in the batch; where no network tells, what is also under ``"next"``, apart from marks."""
        if self.observed:
            return [key for key in self.observed if self.batch.get(key, None) is not None]
        marks = {"is_init", "done", "terminated", "truncated", "step_count", "reward"}
        keys = [k for k in map(unravel_key, self.batch.keys(True, True)) if k not in marks and k[0] != "next"]
        twice = [k for k in keys if self.batch.get(unravel_key(("next", k)), None) is not None]
        return [k for k in twice if "recurrent_state" not in str(k) and self.batch[k].dtype != torch.bool]

    @property
    def _networks(self) -> list[TensorDictModuleBase]:
        if self.policy is not None:
            return [self.policy]
        inside = vars(self.loss).values() if self.has("loss") and hasattr(self.loss, "__dict__") else ()
        return [m for m in inside if isinstance(m, TensorDictModuleBase)]

    @cached_property
    def walk(self) -> list[Moment]:
        """Random actions until some episodes have ended; the policy runs beside them, in sequential mode."""
        env, policy, moments = self.env, self.policy, []
        try:
            td = env.reset()
        except Exception as error:
            raise Skip(f"the environment does not reset ({first_line(error)})") from None
        began = torch.ones(td.shape, dtype=torch.bool)
        ends, deadline = 0, time.monotonic() + SECONDS
        with set_recurrent_mode(False):
            for _ in range(STEPS):
                before = td.clone()
                if policy is not None:
                    if "is_init" in policy.in_keys and "is_init" not in td.keys():
                        td["is_init"] = began.unsqueeze(-1)  # its absence is a finding of its own
                    try:
                        td = policy(td)
                    except Exception as error:
                        self.trouble, policy = first_line(error), None
                after = td.clone()
                td, following = env.step_and_maybe_reset(env.rand_action(td))
                ended = td["next", "done"].reshape(td.shape).clone()
                moments.append(Moment(before, after, ended, following.clone()))
                td, began = following, ended
                ends += int(ended.sum())
                if (ends >= EPISODES and len(moments) >= EPISODES) or time.monotonic() > deadline:
                    break
        return moments

    def readable(self, rows: int) -> TensorDictBase:
        """Some steps that the policy can read, ``[rows]``, marked as the insides of episodes."""
        found = [moment.before for moment in self.walk] if self.has("env") else [self.batch]
        keys = [key for key in self.policy.in_keys if found[0].get(key, None) is not None]
        steps = torch.cat([td.select(*keys).reshape(-1) for td in found])
        if len(steps) < rows:
            raise Skip("there are too few steps")
        steps = steps[:rows]
        steps["is_init"] = torch.zeros(rows, 1, dtype=torch.bool)
        return steps

    def outputs(self, td: TensorDictBase) -> Tensor:
        """What the policy makes of each step, actions and states left out, ``[n, ...]``."""
        out = self.policy(td.clone())
        skip = {"action", *self.states, *(write for _, write in self.pairs)}
        for key in reversed(self.policy.out_keys):
            if key not in skip and out[key].is_floating_point():
                return out[key].reshape(len(td), -1)
        raise Skip("the policy puts out nothing but actions and states")

    def errors(self, batch: TensorDictBase) -> Tensor | None:
        """The error of every step, ``[N]``, or ``None`` where the loss gives one number for all."""
        batch = batch.clone()
        out = self.loss(batch)
        key = getattr(getattr(self.loss, "tensor_keys", None), "priority", "td_error")
        found = batch.get(key, None)
        if found is None:
            values = out.values() if isinstance(out, TensorDictBase) else [out]
            found = next((v for v in values if v.numel() == batch.numel() > 1), None)
        return None if found is None else found.detach().reshape(-1)

    @cached_property
    def usual_errors(self) -> Tensor | None:
        """The errors of the batch as it is."""
        return self.errors(self.batch)

    def total(self, batch: TensorDictBase) -> float:
        """The whole loss, as one number."""
        out = self.loss(batch.clone())
        if isinstance(out, TensorDictBase):
            out = sum(value.sum() for key, value in out.items() if str(key).startswith("loss"))
        return float(out)

    def influence(self, cause: Tensor, effect: Tensor) -> tuple[float, float]:
        """How far errors at ``effect`` move when the world at ``cause`` changes, and what rounding may do.

        Both are masks ``[N]``; the numbers are relative to the mean error. Where the loss is one number, it
        is a sum over steps only if changing the world at ``cause`` and the rewards at ``effect`` does what
        the two changes do one by one; the first number is then how far it is from that.
        """
        changed = change(self.batch, cause, self.world_keys)
        if self.usual_errors is not None:
            if not self.usual_errors.any():
                raise Skip("no step of the batch has an error")
            moved = (self.errors(changed) - self.usual_errors)[effect].abs().max()
            return float(moved / self.usual_errors.mean()), 1e-7
        both, rewards = (change(td, effect, ["reward"]) for td in (changed, self.batch))
        totals = [self.total(td) for td in (both, changed, rewards, self.batch)]
        if totals[2] == totals[3]:
            raise Skip("the loss gives one number, and does not read the reward")
        apart = totals[0] - totals[1] - totals[2] + totals[3]
        return abs(apart) / max(map(abs, totals)), 1e-5


@contextlib.contextmanager
def nothing_changed() -> Iterator[None]:
    """Put every source of random numbers back, and keep quiet."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def copy_env(env: EnvBase) -> EnvBase:
    """Copy an environment with its transforms, state and random numbers; batched ones are built again."""
    if isinstance(env, TransformedEnv):
        transform = env.transform.clone()
        empty = [b for b in transform.buffers() if isinstance(b, UninitializedBuffer)]  # these refuse a copy
        return TransformedEnv(
            copy_env(env.base_env), copy.deepcopy(transform, {id(b): UninitializedBuffer() for b in empty})
        )
    if isinstance(env, BatchedEnvBase):
        return SerialEnv(env.num_workers, env.create_env_fn, create_env_kwargs=env.create_env_kwargs)
    try:
        return copy.deepcopy(env)
    except TypeError:
        forgotten: dict[int, Any] = {}
        _forget_handles(env, forgotten, set())
        return copy.deepcopy(env, forgotten)


def _forget_handles(thing: Any, forgotten: dict[int, Any], seen: set[int]) -> None:
    """Find what cannot be copied, such as a pygame surface, so that the copy starts without it."""
    if id(thing) in seen or isinstance(thing, type | Tensor | str | int | float | None):
        return
    seen.add(id(thing))
    if isinstance(thing, dict):
        inside = list(thing.values())
    elif isinstance(thing, list | tuple):
        inside = list(thing)
    else:
        inside = list(getattr(thing, "__dict__", {}).values())
    for value in inside:
        _forget_handles(value, forgotten, seen)
    if not inside:
        try:
            copy.deepcopy(thing)
        except TypeError:
            forgotten[id(thing)] = thing if callable(thing) else None


def copy_buffer(buffer: ReplayBuffer) -> ReplayBuffer:
    """Read the same storage with a sampler and transforms of its own, without prefetching."""
    twin = object.__new__(type(buffer))  # copying would hand the sampler another generator
    twin.__dict__.update(buffer.__dict__)
    generator = getattr(buffer, "_rng", None)
    try:
        twin._sampler = copy.deepcopy(buffer._sampler, {} if generator is None else {id(generator): None})
    except Exception:  # compiled parts, such as sum trees: sampling does not change those
        twin._sampler = copy.copy(buffer._sampler)
    twin._transform = copy.deepcopy(buffer._transform)
    twin._prefetch = False
    return twin


def change(batch: TensorDictBase, where: Tensor, keys: list[NestedKey]) -> TensorDictBase:
    """Copy ``batch``, and put other values (always the same) at ``where`` ``[N]``, and under ``"next"``."""
    torch.manual_seed(0)
    flat = batch.clone().reshape(-1)
    for key in [*keys, *(unravel_key(("next", key)) for key in keys)]:
        value = flat.get(key, None)
        if value is None:
            continue
        value = value.clone()
        part = value[where]
        if value.is_floating_point():
            value[where] = part + (1 + value.std(correction=0)) * (1 + torch.rand_like(part))
        elif value.dtype == torch.uint8:
            value[where] = 255 - part
        flat.set(key, value)
    return flat.reshape(batch.shape)


def is_real(batch: TensorDictBase) -> Tensor:
    """Which steps are data and not padding, ``[N]``."""
    real = torch.ones(batch.numel(), dtype=torch.bool)
    for key in MASKS:
        mask = batch.get(key, None)
        if mask is not None and mask.numel() == batch.numel():
            real &= mask.reshape(-1)
    return real


def starts(batch: TensorDictBase) -> Tensor:
    """Which steps start a slice, ``[N]``: the first of a row, those that are marked, and after a done one."""
    start = _first_of_row(batch)
    if batch.get("is_init", None) is not None:
        start |= batch["is_init"].reshape(-1)
    start[1:] |= batch["next", "done"].reshape(-1)[:-1]
    return start


def neighbours(batch: TensorDictBase) -> Tensor:
    """Which steps ``[N - 1]`` lie in one row with the step after them, both of them data."""
    real = is_real(batch)
    return ~_first_of_row(batch)[1:] & real[1:] & real[:-1]


def _on_cpu(part: Any) -> Any:
    return part.to("cpu") if isinstance(part, nn.Module) else part


def _first_of_row(batch: TensorDictBase) -> Tensor:
    first = torch.zeros(batch.shape, dtype=torch.bool)
    first[..., 0] = True
    return first.reshape(-1)


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
