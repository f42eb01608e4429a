import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs.utils import ExplorationType, set_exploration_type

from recdqn import make_collector, make_env, make_policy, make_replay_buffer
from recdqn.replay import StepUniformSliceSampler


def filled(cfg, tmp_path, collections):
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    buffer = make_replay_buffer(cfg, tmp_path)
    collector = make_collector(cfg, env, policy, buffer)
    for _, handed_over in zip(range(collections), collector, strict=False):
        assert handed_over is None  # the collector writes into the buffer itself
    collector.shutdown()
    return buffer


@pytest.mark.parametrize("num_envs", [1, 2, 8])
def test_slices_stay_inside_episodes_and_in_order(tiny, tmp_path, num_envs):
    cfg = tiny.replace(env={"num_envs": num_envs})
    buffer = filled(cfg, tmp_path, 6)
    assert len(buffer) == 6 * cfg.train.frames_per_batch
    continued = 0
    for _ in range(20):
        batch = buffer.sample()
        start = batch["is_init"].squeeze(-1)
        assert start.sum() == cfg.replay.slices and start[0]
        inside = ~start[1:]
        episode, step = batch["collector", "traj_ids"], batch["step_count"].squeeze(-1)
        assert (episode[1:] == episode[:-1])[inside].all()
        assert (step[1:] == step[:-1] + 1)[inside].all()
        # the transition before leads to the one after, observation and recurrent state alike
        for key in ("observation", "recurrent_state_h", "recurrent_state_c"):
            torch.testing.assert_close(batch["next", key][:-1][inside], batch[key][1:][inside])
        continued += int(inside.sum())
    assert continued > 200


def test_every_stored_step_continues_the_one_before(tiny, tmp_path):
    """Nothing is lost or doubled between the collector and the buffer: 8 rows of time, resets where done."""
    buffer = filled(tiny, tmp_path, 8)
    data = buffer[:]
    if data.shape[0] != 8:  # the storage keeps time first
        data = data.transpose(0, 1)
    assert data.shape == (8, 64)
    done = data["next", "done"].squeeze(-1)[:, :-1]
    assert done.sum() > 5
    assert torch.equal(data["is_init"].squeeze(-1)[:, 1:], done)
    same = data["next", "observation"][:, :-1] == data["observation"][:, 1:]
    assert same[~done].all() and not same[done].any()
    assert (data["recurrent_state_h"][:, 1:][done] == 0).all()
    assert data["collector", "traj_ids"].unique().numel() == 8 + int(done.sum())


def test_collector_explores_whatever_the_caller_set(tiny, tmp_path):
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        buffer = filled(tiny.replace(policy={"eps_start": 1.0}), tmp_path, 4)
    data = buffer[:]
    greedy = data["action_value"].argmax(-1)
    share = (data["action"].argmax(-1) == greedy).float().mean()
    assert 0.35 < share < 0.65  # half of the random actions agree by chance: 256 coins


def test_data_lies_in_the_given_folder(tiny, tmp_path):
    filled(tiny, tmp_path, 1)
    assert list(tmp_path.rglob("*.memmap"))


def draws(sampler, lengths, slices):
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    flags = torch.zeros(len(episode), 1, dtype=torch.bool)
    data = {"episode": episode, ("next", "done"): flags, ("next", "truncated"): flags}
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(episode)), sampler=sampler, batch_size=slices * 5
    )
    buffer.extend(TensorDict(data, [len(episode)]))
    drawn = buffer.sample()
    starts = drawn["episode"][drawn["is_init"].squeeze(-1)] if "is_init" in drawn.keys() else drawn["episode"]
    return torch.bincount(drawn["episode"], minlength=len(lengths)) / torch.tensor(lengths), starts


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(5, 200), min_size=2, max_size=5))
def test_every_step_is_replayed_about_as_often(lengths):
    """Episodes of at least a slice: draws per step agree within sampling error, whatever the lengths."""
    per_step, _ = draws(StepUniformSliceSampler(slice_len=5, traj_key="episode"), lengths, 20_000)
    expected = 20_000 * 5 / sum(lengths)
    counts = torch.tensor([20_000 * n / sum(lengths) for n in lengths])
    assert ((per_step / expected - 1).abs() < 6 / counts.sqrt()).all()


def test_torchrl_draws_short_episodes_more_often():
    """The reason for our sampler; when this fails, TorchRL has changed and ours can go."""
    per_step, _ = draws(SliceSampler(slice_len=5, strict_length=False, traj_key="episode"), [10, 200], 20_000)
    assert 18 < per_step[0] / per_step[1] < 22
