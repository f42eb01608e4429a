"""Prioritised slices, against a second implementation that counts every place of a slice one by one."""

import math
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage

from recdqn import resume, train
from recdqn.replay import PrioritySliceSampler, SliceReplayBuffer

ETA, ALPHA = 0.7, 0.6


def priority(errors):
    return (ETA * max(errors) + (1 - ETA) * sum(errors) / len(errors)) ** ALPHA


def by_hand(episodes, slice_len, weigh):
    """The probability of every place of a slice: {the steps it covers: probability}.

    ``episodes`` has the names of the steps of each. A slice, as long as the episode allows, begins at any
    offset at which it covers a step of the episode.
    """
    weights = {}
    for steps in episodes:
        longest = min(len(steps), slice_len)
        for offset in range(1 - longest, len(steps)):
            covered = tuple(steps[max(offset, 0) : offset + longest])
            assert covered not in weights
            weights[covered] = weigh(covered) / longest
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
            batch_size=slice_len * 3,
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
            self.episodes(), self.slice_len, lambda covered: priority([self.error[step] for step in covered])
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
    recorder = Recorder(envs, rows, slice_len)
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
            batch = recorder.buffer.sample()
            squared = torch.from_numpy(random.exponential(size=len(batch))).float()
            recorder.update(batch, squared * torch.from_numpy(random.random(len(batch)) < 0.8))  # 0: burn-in
        elif what == "load":
            recorder.load()
        else:
            recorder.check()
    recorder.check()


@pytest.mark.parametrize("num_envs", [1, 8])
def test_a_run_with_priorities_resumes_exactly(tiny, tmp_path, num_envs):
    """Stopped after 384 frames, before which a small buffer has wrapped around, and resumed."""
    cfg = tiny.replace(
        env={"num_envs": num_envs},
        loss={"burn_in": 3},
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
