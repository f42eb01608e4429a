"""A lower bound: masked CartPole trained by a plain PyTorch loop, without TorchRL and without tensordict.

:func:`train` does what :func:`recdqn.training` does with the preset ``"masked-cartpole"``: the same networks,
initial values, exploration, buffer, slices, targets, optimiser, running average, and numbers of frames and
updates. It never evaluates; ``python -m benchmarks.plain SEED`` does, with the preset's stopping rule, and
shows that it learns: seeds 0, 1 and 2 were solved after 16,000, 43,200 and 38,400 frames, the package's after
17,600, 28,800 and 30,400. A test checks that both compute the same loss and gradients.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from recdqn import weights
from recdqn.config import ENV_ID, Config, EnvConfig
from recdqn.evaluation import EVAL_SEED

VISIBLE = list(EnvConfig().visible)  # of CartPole's four numbers
State = tuple[Tensor, Tensor]  # h and c of the LSTM, [1, rows, hidden] each


class Network(nn.Module):
    """Features, an LSTM, and Q-values: observations ``[rows, steps, 2]`` to values ``[rows, steps, 2]``."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        sizes = cfg.policy
        self.features = nn.Sequential(nn.Linear(len(VISIBLE), sizes.features), nn.Tanh())
        self.memory = nn.LSTM(sizes.features, sizes.hidden_size, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(sizes.hidden_size, sizes.head), nn.ReLU(), nn.Linear(sizes.head, 2)
        )
        nn.init.constant_(self.head[-1].bias, sizes.initial_value)

    def forward(self, observation: Tensor, state: State) -> tuple[Tensor, State]:
        """Process one sequence per row, starting from ``state``."""
        memory, state = self.memory(self.features(observation), state)
        return self.head(memory), state


@dataclass(frozen=True)
class Batch:
    """Slices, one per row, padded with zeros at their ends: ``[slices, longest, ...]``.

    ``observation`` is ``[slices, longest + 1, 2]``: the observation after a slice's last step comes last.
    """

    observation: Tensor
    state: State
    action: Tensor
    reward: Tensor
    terminated: Tensor
    length: Tensor  # of each slice


class Buffer:
    """A ring buffer of steps for each environment, with an index of its episodes."""

    def __init__(self, cfg: Config, rng: np.random.Generator) -> None:
        self.cfg, self.rng, self.steps = cfg, rng, 0  # steps taken in each environment
        n, self.size = cfg.env.num_envs, math.ceil(cfg.replay.capacity / cfg.env.num_envs)
        shape, hidden = (n, self.size), cfg.policy.hidden_size
        self.observation = torch.zeros(*shape, len(VISIBLE))
        self.next_observation = torch.zeros(*shape, len(VISIBLE))
        self.h, self.c = torch.zeros(*shape, hidden), torch.zeros(*shape, hidden)
        self.action = torch.zeros(shape, dtype=torch.long)
        self.reward = torch.zeros(shape)
        self.terminated = torch.zeros(shape, dtype=torch.bool)
        self.begin = np.zeros(n, dtype=int)  # of the running episodes, counted in steps
        self.ended: list[tuple[int, int, int]] = []  # environment, begin and end of the others

    def add(self, done: np.ndarray, **values: Tensor) -> None:
        """Store one step of every environment."""
        place = self.steps % self.size
        for name, value in values.items():
            getattr(self, name)[:, place] = value
        self.steps += 1
        for env in done.nonzero()[0]:
            self.ended.append((env, self.begin[env], self.steps))
            self.begin[env] = self.steps

    def index(self) -> None:
        """Index the episodes in the ring; call it after adding and before sampling."""
        running = [(env, begin, self.steps) for env, begin in enumerate(self.begin) if begin < self.steps]
        env, begin, end = np.array(self.ended + running).T
        oldest = max(0, self.steps - self.size)
        env, begin, end = env[end > oldest], begin[end > oldest].clip(oldest), end[end > oldest]
        length = end - begin
        longest = np.minimum(length, self.cfg.replay.slice_len)  # slice of each episode
        self.episodes = env, begin, length, longest
        self.weight = np.cumsum((length + longest - 1) / longest)

    def slices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw slices, every step equally often; return environment, first step and length of each."""
        drawn = self.rng.random((2, self.cfg.replay.slices))
        episode = np.searchsorted(self.weight, drawn[0] * self.weight[-1], side="right")
        env, begin, length, longest = (values[episode] for values in self.episodes)
        first = (drawn[1] * (length + longest - 1)).astype(int) - longest + 1  # may lie before the episode
        stop = np.minimum(first + longest, length)
        first = first.clip(0)
        return env, begin + first, stop - first

    def sample(self) -> Batch:
        """Draw a batch of slices."""
        env, first, length = map(torch.from_numpy, self.slices())
        step = torch.arange(int(length.max()))
        inside = step < length[:, None]
        rows, place = env[:, None], (first[:, None] + torch.where(inside, step, 0)) % self.size
        observation = torch.zeros(*place.shape, len(VISIBLE))
        observation = torch.cat([self.observation[rows, place] * inside[..., None], observation[:, :1]], 1)
        last = (first + length - 1) % self.size
        observation[torch.arange(len(env)), length] = self.next_observation[env, last]
        return Batch(
            observation,
            (self.h[env, place[:, 0]][None], self.c[env, place[:, 0]][None]),
            *(values[rows, place] for values in (self.action, self.reward, self.terminated)),
            length,
        )


def loss(online: Network, target: Network, batch: Batch, cfg: Config) -> Tensor:
    """Return the mean squared error of the n-step double Q-learning of :class:`recdqn.RecurrentDQNLoss`."""
    step = torch.arange(batch.action.shape[1])
    stop = torch.minimum(step + cfg.loss.n_steps, batch.length[:, None])  # where the bootstrap is taken
    value, _ = online(batch.observation, batch.state)
    with torch.no_grad():
        target_value, _ = target(batch.observation, batch.state)
        bootstrap = target_value.gather(-1, value.argmax(-1, keepdim=True)).squeeze(-1)
        last = (stop - 1).clamp_min(0)
        discount = cfg.loss.gamma ** (stop - step).clamp_min(0) * ~batch.terminated.gather(1, last)
        wanted = discount * bootstrap.gather(1, stop)
        for k in range(cfg.loss.n_steps):
            later = (step + k).clamp_max(len(step) - 1).expand_as(batch.reward)
            wanted += cfg.loss.gamma**k * batch.reward.gather(1, later) * (step + k < stop)
    chosen = value[:, :-1].gather(-1, batch.action[..., None]).squeeze(-1)
    inside = step < batch.length[:, None]
    return (chosen - wanted)[inside].square().mean()


def train(
    cfg: Config, after: Callable[[Network, int], bool] | None = None, one_vector: bool = False
) -> tuple[Network, int]:
    """Train on masked CartPole until the frames are used up, or ``after(network, collection)`` is true.

    With ``one_vector`` the weights of each network, and the gradient, lie in one vector, as in the package.

    Returns:
        The network with the running average of the weights, and how many updates were made.
    """
    if (
        cfg.env.observation != "masked"
        or cfg.policy.cell != "lstm"
        or cfg.loss.burn_in
        or cfg.loss.value_rescale
    ):
        raise ValueError(
            "the plain loop knows masked observations and an LSTM, without burn-in and value_rescale"
        )
    torch.manual_seed(cfg.seed)
    env, rng = make_env(cfg.env.num_envs), np.random.default_rng(cfg.seed)
    online, buffer = Network(cfg), Buffer(cfg, rng)
    target, average = copy.deepcopy(online), copy.deepcopy(online)
    parameters, targets, averages = (list(network.parameters()) for network in (online, target, average))
    if one_vector:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        gradient = weights.one_vector([parameter.grad for parameter in parameters])
        parameters, targets, averages = map(weights.one_vector, (parameters, targets, averages))
        parameters[0].grad = gradient[0]
    optim = torch.optim.Adam(parameters, lr=cfg.train.learning_rate, fused=one_vector)
    see = observer(cfg)

    observation = see(env.reset(seed=cfg.seed)[0])
    state = tuple(torch.zeros(1, cfg.env.num_envs, cfg.policy.hidden_size) for _ in range(2))
    eps, updates = cfg.policy.eps_start, 0
    for collection in range(1, cfg.train.collections + 1):
        for _ in range(cfg.train.frames_per_batch // cfg.env.num_envs):
            with torch.no_grad():
                value, next_state = online(observation[:, None], state)
            explore = rng.random(cfg.env.num_envs) < eps
            action = np.where(explore, rng.integers(2, size=len(explore)), value[:, 0].argmax(-1).numpy())
            seen, reward, terminated, truncated, _ = env.step(action)
            done, next_observation = terminated | truncated, see(seen)
            buffer.add(
                done,
                observation=observation,
                next_observation=next_observation,
                h=state[0][0],
                c=state[1][0],
                action=torch.from_numpy(action),
                reward=torch.from_numpy(reward * cfg.env.reward_scale),
                terminated=torch.from_numpy(terminated),
            )
            observation, state = next_observation, next_state
            if done.any():
                observation = see(env.reset(options={"reset_mask": done})[0])
                going = torch.from_numpy(~done)[None, :, None]
                state = tuple(part * going for part in state)
        frames = collection * cfg.train.frames_per_batch
        done_share = min(frames / cfg.policy.eps_frames, 1.0)
        eps = cfg.policy.eps_start + done_share * (cfg.policy.eps_end - cfg.policy.eps_start)

        if frames >= cfg.train.warmup_frames:
            buffer.index()
            share = min(frames / cfg.train.total_frames, 1.0)
            low, high = cfg.train.final_learning_rate, cfg.train.learning_rate
            optim.param_groups[0]["lr"] = high + share * (low - high)
            for _ in range(cfg.train.updates):
                error = loss(online, target, buffer.sample(), cfg)
                error.backward()
                nn.utils.clip_grad_norm_(parameters, cfg.train.max_grad_norm)
                optim.step()
                optim.zero_grad(set_to_none=not one_vector)
                keep = cfg.train.average if updates else 0.0
                with torch.no_grad():
                    torch._foreach_lerp_(targets, parameters, cfg.loss.tau)
                    torch._foreach_lerp_(averages, parameters, 1.0 - keep)
                updates += 1
            if not math.isfinite(error.item()):
                raise FloatingPointError(f"the loss is {error.item()} after {frames} frames")
        if after is not None and after(average, collection):
            break
    env.close()
    return average, updates


def make_env(n: int) -> gym.vector.VectorEnv:
    """Build ``n`` environments that step together and are reset by the caller."""
    disabled = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
    return gym.make_vec(ENV_ID, n, vectorization_mode="sync", vector_kwargs=disabled)


def observer(cfg: Config) -> Callable[[np.ndarray], Tensor]:
    """Return a function that removes the velocities and scales the other entries."""
    loc, scale = torch.tensor(cfg.env.loc), torch.tensor(cfg.env.scale)
    return lambda seen: torch.from_numpy(seen[:, VISIBLE]) * scale + loc


@torch.no_grad()
def mean_return(network: Network, cfg: Config, episodes: int, seed: int) -> float:
    """Play greedy episodes in parallel, in fresh environments, and return their mean length."""
    env, see = make_env(episodes), observer(cfg)
    state = tuple(torch.zeros(1, episodes, cfg.policy.hidden_size) for _ in range(2))
    running, total = np.ones(episodes, dtype=bool), 0
    observation = env.reset(seed=EVAL_SEED + seed)[0]
    while running.any():
        value, state = network(see(observation)[:, None], state)
        observation, _, terminated, truncated, _ = env.step(value[:, 0].argmax(-1).numpy())
        total += running.sum()
        done = terminated | truncated
        running &= ~done
        if done.any():
            observation = env.reset(options={"reset_mask": done})[0]
    env.close()
    return total / episodes


def main(seed: int) -> None:
    """Train until solved, with the preset's stopping rule, and print every evaluation."""
    torch.set_num_threads(1)
    cfg, start = Config.preset("masked-cartpole", seed=seed), time.perf_counter()

    def solved(network: Network, collection: int) -> bool:
        if (
            collection % cfg.train.eval_every
            or collection * cfg.train.frames_per_batch < cfg.train.warmup_frames
        ):
            return False
        reached = mean_return(network, cfg, cfg.train.eval_episodes, collection)
        if reached >= cfg.train.solved_return:
            reached = mean_return(network, cfg, cfg.train.solved_episodes, cfg.train.total_frames)
            print("confirming:", end=" ")
        frames, seconds = collection * cfg.train.frames_per_batch, time.perf_counter() - start
        print(f"seed {seed}: {frames} frames, {seconds:.0f} s, mean return {reached:.1f}", flush=True)
        return reached >= cfg.train.solved_return

    train(cfg, solved)


if __name__ == "__main__":
    main(int(sys.argv[1]))
