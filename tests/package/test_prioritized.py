"""Prioritised slices, against a second implementation that counts every place of a slice one by one."""

import math
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    PrioritizedSampler,
    PrioritizedSliceSampler,
    Sequence,
    TensorDictReplayBuffer,
)

from recdqn import resume, train
from recdqn.replay import PrioritySliceSampler, SliceReplayBuffer, StepUniformSliceSampler

ETA, ALPHA = 0.7, 0.6


def priority(errors):
    return (ETA * max(errors) + (1 - ETA) * sum(errors) / len(errors)) ** ALPHA


def by_hand(episodes, slice_len, weigh, whole=False, period=0):
    """The probability of every place of a slice: {the steps it covers: probability}.

    ``episodes`` has the names of the steps of each. A slice, as long as the episode allows, begins at any
    offset at which it covers a step of the episode. With ``whole`` an episode of at most ``slice_len`` steps
    has one place, which counts as much as all its places otherwise cover each step. With a ``period`` slices
    begin at its multiples, and all count the same.
    """
    weights = {}
    for steps in episodes:
        longest = min(len(steps), slice_len)
        if whole and len(steps) <= slice_len:
            weights[tuple(steps)] = weigh(tuple(steps))
            continue
        offsets = range(0, len(steps), period) if period else range(1 - longest, len(steps))
        for offset in offsets:
            covered = tuple(steps[max(offset, 0) : offset + longest])
            assert covered not in weights
            weights[covered] = weigh(covered) / (1 if period else longest)
    total = sum(weights.values())
    return {covered: weight / total for covered, weight in weights.items()}


class Recorder:
    """A buffer, and beside it plain lists of what is stored and dictionaries of the errors."""

    def __init__(self, envs, rows, slice_len, kind=SliceReplayBuffer, **kwargs):
        self.envs, self.rows, self.slice_len = envs, rows, slice_len
        self.make = lambda: kind(
            storage=LazyTensorStorage(envs * rows, ndim=2 if envs > 1 else 1),
            sampler=PrioritySliceSampler(
                slice_len=slice_len, traj_key="episode", eta=ETA, alpha=ALPHA, **kwargs
            ),
            dim_extend=1 if envs > 1 else 0,
        )
        self.buffer = self.make()
        self.number, self.clock = np.arange(envs), 0
        self.written = []  # [(env, time, episode)]
        self.error, self.largest = {}, 1.0  # by (env, time); of new steps

    def extend(self, starts):
        """Write steps; ``starts`` ``[steps, envs]`` says which begin an episode."""
        chunk = []
        for new in starts:
            self.number = np.where(new, self.number.max() + 1 + np.arange(self.envs), self.number)
            chunk.append(torch.from_numpy(self.number.copy()))
            for env, episode in enumerate(self.number.tolist()):
                self.written.append((env, self.clock, episode))
                self.error[env, self.clock] = self.largest
            self.clock += 1
        flags = torch.zeros(self.envs, len(chunk), 1, dtype=torch.bool)
        time = torch.arange(self.clock - len(chunk), self.clock).expand(self.envs, -1).clone()
        env = torch.arange(self.envs)[:, None].expand(-1, len(chunk)).clone()
        data = {"episode": torch.stack(chunk, 1), "time": time, "env": env, "action": time}
        data |= {("next", "done"): flags, ("next", "truncated"): flags.clone()}
        steps = TensorDict(data, [self.envs, len(chunk)])
        self.buffer.extend(steps if self.envs > 1 else steps[0])

    @property
    def stored(self):
        return self.written[-self.envs * self.rows :]

    def episodes(self):
        found = {}
        for env, time, episode in self.stored:
            found.setdefault((env, episode), []).append((env, time))
        return list(found.values())

    def update(self, batch, squared):
        batch["td_error"] = squared[:, None]
        self.buffer.update_tensordict_priority(batch)
        errors = [math.sqrt(value) for value in squared.tolist()]
        self.largest = max(errors, default=0.0) or self.largest
        for env, time, error in zip(batch["env"].tolist(), batch["time"].tolist(), errors, strict=True):
            if error > 0:
                self.error[env, time] = error

    def load(self):
        """Go on in another buffer, from the saved state."""
        state, self.buffer = self.buffer.state_dict(), self.make()
        self.buffer.load_state_dict(state)

    def check(self):
        """Compare the probability of every place with the one by hand."""
        expected = by_hand(
            self.episodes(),
            self.slice_len,
            lambda covered: priority([self.error[step] for step in covered]),
            self.buffer.sampler.whole,
            self.buffer.sampler.period,
        )
        drawn = shares(self.buffer, self.slice_len)
        assert drawn.keys() <= expected.keys()
        for place, share in expected.items():
            assert drawn.get(place, 0) == pytest.approx(share, abs=1.01 / DRAWS)


DRAWS = 20_000


def shares(buffer, slice_len):
    """The share of the draws that each place has, if the random numbers lie evenly between 0 and 1."""
    even = (torch.arange(DRAWS, dtype=torch.double) + 0.5) / DRAWS
    with mock.patch.object(torch, "rand", lambda *args, **kwargs: even):
        batch = buffer.sample(slice_len * DRAWS)
    steps = list(zip(batch["env"].tolist(), batch["time"].tolist(), strict=True))
    end = (batch["next", "truncated"].flatten().nonzero().flatten() + 1).tolist()
    assert len(end) == DRAWS
    count = Counter(tuple(steps[a:b]) for a, b in zip([0, *end], end, strict=False))
    return {place: number / DRAWS for place, number in count.items()}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_priorities_follow_a_ring_of_any_size(data):
    """Writes, draws, updates and resumes in any order; episodes of any length, which wrap around the end."""
    envs, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(3, 12))
    slice_len = data.draw(st.integers(1, 5))
    kind = data.draw(st.sampled_from([SliceReplayBuffer, TensorDictReplayBuffer]))
    whole, period = data.draw(st.booleans()), data.draw(st.integers(0, slice_len))
    recorder = Recorder(envs, rows, slice_len, kind, whole=whole, period=period)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    torch.manual_seed(0)
    for what in [
        "write",
        *data.draw(st.lists(st.sampled_from(["write", "update", "load", "check"]), max_size=12)),
    ]:
        if what == "write":
            steps = int(random.integers(2, rows + 3))  # TorchRL 0.14.1 cannot store one step of several envs
            recorder.extend(random.random((min(steps, rows), envs)) < 0.3)
        elif what == "update":
            batch = recorder.buffer.sample(3 * slice_len)
            squared = torch.from_numpy(random.exponential(size=len(batch))).float()
            recorder.update(batch, squared * torch.from_numpy(random.random(len(batch)) < 0.8))  # 0: burn-in
        elif what == "load" and kind is SliceReplayBuffer:
            recorder.load()
        else:
            recorder.check()
    recorder.check()


@pytest.mark.parametrize("num_envs", [1, 8])
def test_a_run_with_priorities_resumes_exactly(tiny, tmp_path, num_envs):
    """With other pieces of R2D2; stopped after 384 frames, when a small buffer has wrapped around."""
    cfg = tiny.replace(
        env={"num_envs": num_envs},
        policy={"dueling": True},
        loss={"burn_in": 3, "target_every": 3, "stored_state": False},
        replay={"priority": 0.9, "importance": 0.6, "capacity": 320},
        train={"learning_rate": 1e-3, "final_learning_rate": 1e-3},
    )
    whole = train(cfg, progress=False)
    train(cfg.replace(train={"total_frames": 384}), out=tmp_path / "run", progress=False)
    again = resume(tmp_path / "run", frames=512, progress=False)
    uniform = train(cfg.replace(replay={"priority": 0.0}), progress=False)
    ours, resumed, other = (
        torch.cat([p.flatten() for p in run.policy.parameters()]) for run in (whole, again, uniform)
    )
    assert torch.equal(ours, resumed) and not torch.equal(ours, other)


def store(lengths, sampler, **kwargs):
    """A buffer of one environment with complete episodes of these lengths."""
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    start = episode.diff(prepend=torch.tensor([-1]))[:, None] != 0
    data = {"episode": episode, "time": torch.arange(len(episode)), "env": torch.zeros_like(episode)}
    data |= {"is_init": start, ("next", "done"): start.roll(-1, 0)}
    data["next", "truncated"] = torch.zeros_like(start)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(episode)), sampler=sampler, **kwargs)
    buffer.extend(TensorDict(data, [len(episode)]))
    return buffer


def episodes_of(lengths):
    ends = np.cumsum(lengths).tolist()
    return [[(0, step) for step in range(end - n, end)] for end, n in zip(ends, lengths, strict=True)]


LENGTHS = [1, 3, 5, 12, 40]


@pytest.mark.parametrize("whole, period", [(False, 0), (True, 0), (False, 2), (True, 2)])
def test_equal_errors_draw_as_the_uniform_sampler(whole, period):
    """Every place by count, and a million steps of each sampler by a chi-squared test of the places."""
    kwargs = {"slice_len": 5, "traj_key": "episode", "whole": whole, "period": period}
    ours = PrioritySliceSampler(**kwargs)
    expected = by_hand(episodes_of(LENGTHS), 5, lambda covered: 1.0, whole, period)
    drawn = shares(store(LENGTHS, ours), 5)
    assert drawn.keys() == expected.keys()
    for place, share in expected.items():
        assert drawn[place] == pytest.approx(share, abs=1.01 / DRAWS)

    counts = []
    for kind in (PrioritySliceSampler, StepUniformSliceSampler):
        batch = store(LENGTHS, kind(**kwargs)).sample(5 * 300_000)
        end = batch["next", "truncated"].flatten().nonzero().flatten()
        start = torch.cat([torch.zeros(1, dtype=torch.long), end[:-1] + 1])
        assert len(batch) > 1_000_000
        place = batch["time"][start] * sum(LENGTHS) + batch["time"][end]
        counts.append(torch.bincount(place, minlength=sum(LENGTHS) ** 2).numpy())
    counts = np.stack(counts)
    assert stats.chi2_contingency(counts[:, counts.any(0)]).pvalue > 0.001


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_importance_weights_correct_the_draws(beta):
    """With beta = 1 the weighted mean of anything over all places is that of the uniform sampler."""
    sampler = PrioritySliceSampler(slice_len=5, traj_key="episode", eta=ETA, alpha=ALPHA, beta=beta)
    buffer = store(LENGTHS, sampler)
    steps = sum(LENGTHS)
    squared = torch.rand(steps, dtype=torch.double) ** 4 + 1e-3
    buffer.update_priority(torch.arange(steps), squared)
    priorities = {(0, step): error for step, error in enumerate(squared.sqrt().tolist())}
    drawn = by_hand(episodes_of(LENGTHS), 5, lambda place: priority([priorities[step] for step in place]))
    wanted = by_hand(episodes_of(LENGTHS), 5, lambda place: 1.0)

    batch = buffer.sample(100_000)
    end = (batch["next", "truncated"].flatten().nonzero().flatten() + 1).tolist()
    names = [(0, step) for step in batch["time"].tolist()]
    assert batch["priority_weight"].shape == batch.shape and batch["priority_weight"].max() == 1
    weights = {}
    for a, b in zip([0, *end], end, strict=False):
        assert len(set(batch["priority_weight"][a:b].tolist())) == 1  # one weight for a slice
        weights[tuple(names[a:b])] = batch["priority_weight"][a].item()
    assert weights.keys() == wanted.keys()
    scale = max((wanted[place] / drawn[place]) ** beta for place in wanted)
    for place, weight in weights.items():
        assert weight == pytest.approx((wanted[place] / drawn[place]) ** beta / scale, rel=1e-5)
    if beta == 1:
        value = {
            place: random for place, random in zip(wanted, torch.rand(len(wanted)).tolist(), strict=True)
        }
        mean = sum(drawn[place] * weights[place] * value[place] for place in wanted)
        mean /= sum(drawn[place] * weights[place] for place in wanted)
        assert mean == pytest.approx(sum(wanted[place] * value[place] for place in wanted), rel=1e-5)


def test_an_error_that_is_zero_or_not_finite_is_no_error():
    sampler = PrioritySliceSampler(slice_len=5, traj_key="episode")
    buffer = store([30], sampler)
    buffer.update_priority(torch.arange(30), torch.rand(30) + 0.1)
    before = shares(buffer, 5)
    for nothing in (0.0, math.nan, math.inf):
        buffer.update_priority(torch.arange(30), torch.full((30,), nothing))
        assert shares(buffer, 5) == before
    buffer.update_priority(torch.tensor([29]), torch.tensor([100.0]))
    assert shares(buffer, 5) != before


def share_of_steps(time, lengths):
    """How often each step was drawn, relative to the mean; one tensor for each episode."""
    drawn = torch.bincount(time, minlength=sum(lengths)).double()
    return (drawn / drawn.mean()).split(lengths)


def test_torchrl_draws_short_episodes_and_ends_less_by_priority():
    """The reason for our sampler, with equal priorities; when this fails, TorchRL has changed.

    A ``PrioritizedSliceSampler`` draws the first and the last step of an episode, and the steps of episodes
    shorter than a slice, a fifth as often as the mean, and flags few starts of slices as ``is_init``. A
    ``Sequence`` of five draws the first step of an episode a fifth as often; with ``"stop"``, its end nearly
    twice as often. A ``Sequence`` of one step after four of burn-in is even, but learns from one record in
    five.
    """
    lengths = [3, 40, 3, 40]
    steps = sum(lengths)
    np.random.seed(0)  # TorchRL draws with NumPy
    settings = {"slice_len": 5, "traj_key": "episode", "strict_length": False}
    sampler = PrioritizedSliceSampler(steps, alpha=1.0, beta=0.0, **settings)
    batch = store(lengths, sampler).sample(5 * 10_000)
    end = (batch["next", "truncated"] | batch["next", "done"]).flatten()
    first = torch.cat([torch.tensor([True]), end[:-1]])
    assert first.sum() == 10_000 and (batch["is_init"].flatten() & first).sum() < 800
    short, long, *_ = share_of_steps(batch["time"], lengths)
    for part in (short, long[0], long[-1]):
        assert 0.18 < part.mean() < 0.28
    assert 1.0 < long[10:30].mean() < 1.3

    def sequences(**kwargs):
        unit = Sequence(**kwargs)
        buffer = store(lengths, PrioritizedSampler(steps, alpha=1.0, beta=0.0), sample_unit=unit)
        buffer.update_priority(torch.arange(steps), torch.ones(steps))
        batch = buffer.sample(10_000)
        used = batch["validity_mask"] & batch["learning_mask"]
        assert len(batch) == 5 * 10_000
        return share_of_steps(batch["time"][used], lengths), used.float().mean()

    (short, long, *_), _ = sequences(length=5)
    assert 0.15 < long[0] < 0.3 and 0.9 < long[-1] < 1.2 and 0.35 < short.mean() < 0.5
    (short, long, *_), _ = sequences(length=5, episode_boundary="stop")
    assert 0.15 < long[0] < 0.3 and 1.6 < long[-5] < 2.0 and 0.5 < short.mean() < 0.65
    episodes, used = sequences(length=1, burn_in=4)
    assert all(abs(share - 1) < 0.35 for share in torch.cat(episodes)) and used == pytest.approx(0.2)
