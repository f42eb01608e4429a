"""Benchmarks of pixel CartPole: speed and accuracy of the pictures, speed of the learner, stored bytes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.data import TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.objectives import SoftUpdate

from benchmarks import classic
from benchmarks.harness import Row
from recdqn import Config, add_primers, make_collector, make_env, make_policy, make_replay_buffer
from recdqn.book.measure import median_seconds
from recdqn.book.recorded import recorded_runs
from recdqn.loss import make_loss

PRESET = "pixel-cartpole"
CLASSIC = "classic pipeline"


def pixel_env(steps: int = 50, repeats: int = 40) -> Row:
    """Frames per second of processor time of one pixel env: ``env.rollout(steps)`` with random actions."""
    envs = {"ours": make_env(_config(num_envs=1).env), "other": classic.make_env()}
    for env in envs.values():
        env.set_seed(0)
    torch.manual_seed(0)
    seconds = median_seconds(
        {name: lambda env=env: env.rollout(steps, break_when_any_done=False) for name, env in envs.items()},
        repeats,
        clock=time.thread_time,
    )
    for env in envs.values():
        env.close()
    ours, other = steps / seconds["ours"], steps / seconds["other"]
    return Row(
        what=f"one 84x84 grey pixel env, env.rollout({steps}) with random actions, processor time",
        ours=ours,
        other=other,
        against=CLASSIC,
        unit="frames/s",
        ratio=ours / other,
        must="at least 12",
        met=ours >= 12 * other,
    )


def picture(states: int = 300) -> Row:
    """Difference between our 84x84 picture and the classic pipeline's, before normalisation."""
    cfg = _config(num_envs=1).env
    ours, classics = same_states(make_env(cfg), states)
    difference = (ours.float() - classics).abs()
    largest = difference.max().item()
    return Row(
        what=f"84x84 grey picture, mean absolute difference over {states} states (largest: {largest:.2f})",
        ours=difference.mean().item(),
        other=None,
        against=CLASSIC,
        unit="levels of 255",
        ratio=None,
        must="at most 3",
        met=difference.mean().item() <= 3,
    )


def learner(updates: int = 10, repeats: int = 3) -> Row:
    """Seconds of loss, backward pass and Adam's step, divided by the steps in the batch, on one thread.

    Our side: the preset's batches after 1,024 frames of random play, whose slices are the shortest that
    training ever sees. The other side: the classic network and loss on 4 rows of 50 steps.
    """
    torch.manual_seed(0)
    loss, batches = our_learner(_config(), frames=1_024, batches=updates)
    steps = sum(batch.numel() for batch in batches)
    classic_loss, batch = classic_learner(rows=classic.BATCH)
    seconds = median_seconds(
        {
            "ours": training(loss, batches, _config().train.learning_rate),
            "other": training(classic_loss, [batch], classic.LEARNING_RATE),
        },
        repeats,
    )
    ours, other = seconds["ours"] / steps, seconds["other"] / batch.numel()
    return Row(
        what=f"learner, per trained frame ({steps / updates:.0f} steps a batch, random play)",
        ours=1_000 * ours,
        other=1_000 * other,
        against=f"{CLASSIC} ({batch.numel()} steps)",
        unit="ms",
        ratio=ours / other,
        must="at most 0.01",
        met=ours <= 0.01 * other,
    )


def pixel_bytes() -> Row:
    """Bytes that collector and buffer store per transition, hidden state included."""
    ours, other = sum(our_entries().values()), sum(classic_entries().values())
    return Row(
        what="stored per pixel transition, hidden state included",
        ours=ours,
        other=other,
        against=CLASSIC,
        unit="bytes",
        ratio=ours / other,
        must="ours at most 9,000 bytes",
        met=ours <= 9_000,
    )


def solve() -> Row:
    """Minutes to a mean return of 475 over 100 greedy episodes, from the recorded runs (``make results``).

    The time ends with the evaluation that leads to the 100 episodes, which take about a minute more. An
    unsolved run counts as infinite.
    """
    runs = recorded_runs(PRESET)
    minutes = [run["final"] and run["evaluations"][-1]["seconds"] / 60 or math.inf for run in runs]
    median, slowest = statistics.median(minutes), max(minutes)
    solved = sum(run["final"] is not None for run in runs)
    return Row(
        what=f"84x84 pixel CartPole to 475, median of {len(runs)} recorded runs ({solved} solved, slowest "
        f"{slowest:.1f})",
        ours=median,
        other=None,
        against="",
        unit="minutes",
        ratio=None,
        must="at most 4 in the median, 7 for the slowest",
        met=median <= 4 and slowest <= 7,
    )


def same_states(env: EnvBase, states: int) -> tuple[Tensor, Tensor]:
    """Render the same states in an env and in the classic one: two ``[states, 1, 84, 84]``.

    Both are reset with the same seed and then given the same actions, which keep the pole up with a push to
    the side it falls to, or a random one in five; when it falls, both go on with another seed. Returns the
    pictures as ``env`` gives them, which is then closed, and the classic ones from 0 (black) to 255 (white).

    Raises:
        RuntimeError: if an episode does not end at the same step in both.
    """
    envs = env, classic.make_env(normalise=False)
    reference, rng = gym.make("CartPole-v1"), np.random.default_rng(0)
    pictures: tuple[list[Tensor], list[Tensor]] = ([], [])
    seed = 0
    while len(pictures[0]) < states:
        reference.reset(seed=seed)
        state, _ = reference.reset()
        data = []
        for env in envs:
            env.set_seed(seed, static_seed=True)  # this resets a Gymnasium env, as above
            data.append(env.reset())
        done = False
        while not done and len(pictures[0]) < states:
            for seen, now in zip(pictures, data, strict=True):
                seen.append(now["pixels"].clone())
            action = int(state[2] + state[3] > 0) if rng.random() < 0.8 else int(rng.integers(2))
            state, _, terminated, truncated, _ = reference.step(action)
            done = terminated or truncated
            one_hot = nn.functional.one_hot(torch.tensor(action), 2)
            data = [env.step(now.set("action", one_hot))["next"] for env, now in zip(envs, data, strict=True)]
            if any(bool(now["done"]) != done for now in data):
                raise RuntimeError("the environments are in different states: they end at different steps")
        seed += 1
    for env in (*envs, reference):
        env.close()
    return torch.stack(pictures[0]), 255 * torch.stack(pictures[1])


def our_learner(cfg: Config, frames: int, batches: int) -> tuple[nn.Module, list[TensorDictBase]]:
    """Build the preset's loss, and batches from a buffer that holds ``frames`` frames of random play."""
    env, policy, buffer = _filled(cfg, frames)
    loss = make_loss(cfg.loss, policy, env)
    SoftUpdate(loss, tau=cfg.loss.tau)  # the loss warns where none was made
    return loss, [buffer.sample() for _ in range(batches)]


def classic_learner(rows: int) -> tuple[nn.Module, TensorDictBase]:
    """Build the classic loss, and a batch of ``rows`` rows of 50 steps."""
    env = classic.make_env(frames=10)
    policy = classic.make_policy(env)
    buffer = classic.make_replay_buffer(rows, batch_size=rows)
    classic.fill(buffer, env, policy, rows)
    loss, _ = classic.make_loss(policy, env)
    env.close()
    return loss, buffer.sample()


def training(loss: nn.Module, batches: list[TensorDictBase], rate: float) -> Callable[[], None]:
    """Return a function that makes one gradient step of Adam on each batch."""
    optim = torch.optim.Adam(loss.parameters(), lr=rate)

    def train() -> None:
        for batch in batches:
            loss(batch)["loss"].backward()
            optim.step()
            optim.zero_grad()

    return train


def our_entries(num_envs: int = 8) -> dict[str, float]:
    """Bytes of every entry that the preset's collector and buffer store for a transition."""
    cfg = _config(num_envs=num_envs)
    frames = cfg.train.warmup_frames
    buffer = _filled(cfg, frames)[2]
    aside = sum(picture.nbytes for picture in buffer._last.values())
    return _entries(buffer) | {"pictures kept aside": aside / frames}


def classic_entries() -> dict[str, float]:
    """Bytes of every entry that the classic pipeline stores for a transition."""
    env = classic.make_env(frames=2)
    buffer = classic.make_replay_buffer(1)
    classic.fill(buffer, env, classic.make_policy(env), 1)
    env.close()
    return _entries(buffer)


def encoded_frames(network: nn.Module, call: Callable[[], object]) -> int:
    """Count the pictures that the convolutions ``network`` process during the call."""
    count = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        count += inputs[0].shape[:-3].numel()

    hook = network.register_forward_hook(add)
    try:
        call()
    finally:
        hook.remove()
    return count


class LargeTensors(TorchDispatchMode):
    """Counts the tensors of at least ``elements`` entries that PyTorch writes: copies, not views.

    Attributes:
        count: how many so far.
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and count what it wrote."""
        out = func(*args, **(kwargs or {}))
        read = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.numel() >= self.elements:
                self.count += tensor.untyped_storage().data_ptr() not in read
        return out


def _config(num_envs: int | None = None) -> Config:
    cfg = Config.preset(PRESET)
    return cfg if num_envs is None else cfg.replace(env={"num_envs": num_envs})


def _filled(cfg: Config, frames: int):
    """Fill the preset's buffer with ``frames`` frames; return env, policy and buffer."""
    env = make_env(cfg.env)
    env.set_seed(cfg.seed)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    buffer = make_replay_buffer(cfg.replace(replay={"capacity": 2 * frames}))
    collector = make_collector(cfg.replace(train={"total_frames": frames}), env, policy, buffer)
    for _ in collector:
        pass
    collector.shutdown()
    return env, policy, buffer


def _entries(buffer: TensorDictReplayBuffer) -> dict[str, float]:
    data = buffer.storage[:]
    places = data.numel() * (classic.ROW if data.ndim == 1 else 1)
    return {
        ".".join(key) if isinstance(key, tuple) else key: value.nbytes / places
        for key, value in data.items(include_nested=True, leaves_only=True)
    }
