"""Counts that keep the ratios of the benchmarks from slipping: encoded frames, copies, bytes; no seconds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torchrl.data import SliceSampler
from torchrl.objectives import SoftUpdate

from benchmarks import buffer, classic, masked, pictures, plain, sampler, scaling, stop
from recdqn import (
    Config,
    RecurrentDQNLoss,
    add_primers,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)

# --- pictures -------------------------------------------------------------------------------------------


def test_the_picture_is_the_classic_one():
    cfg = Config.preset("pixel-cartpole").replace(env={"num_envs": 1}).env
    ours, other = pictures.same_states(make_env(cfg), 60)
    ours = ours.float()
    assert ours.shape == other.shape == (60, 1, 84, 84)
    assert other.max() > 254 and other.min() < 60  # white, with a black cart
    assert (ours - other).abs().mean() <= 3 and (ours - other).abs().max() < 1
    # The limit means something: the picture of the step before is no closer than ours has to be.
    moved = (other[10:] - other[:-10]).abs().mean()
    assert (ours[10:] - other[10:]).abs().mean() < moved


def test_bytes_of_a_stored_picture_transition():
    """Counted by hand: 4 bytes a float32, 8 an int64, 1 a bool; a picture of bytes, stored once."""
    picture, hidden = 84 * 84, 64 * 4
    states = {"recurrent_state_h": hidden, "recurrent_state_c": hidden}
    ours = {"pixels": picture, "step_count": 8, "is_init": 1, "action": 2 * 8, "action_value": 2 * 4} | states
    flags = dict.fromkeys(["done", "terminated", "truncated", "is_init"], 1)
    ours |= {f"next.{name}": size for name, size in {**flags, **states, "reward": 4}.items()}
    ours |= {"collector.traj_ids": 8, "index": 8}
    stored = pictures.our_entries()
    aside = stored.pop("pictures kept aside")
    assert stored == ours
    assert sum(ours.values()) == 8_137
    kept = aside * 1_024 / picture  # one picture for each episode of 1,024 steps of random play
    assert kept == int(kept) and 30 < kept < 80


def test_bytes_of_a_classic_transition():
    picture, hidden = 84 * 84 * 4, 128 * 4
    flags = dict.fromkeys(["done", "terminated", "truncated", "is_init"], 1)
    step = {"pixels": picture, "step_count": 8, "recurrent_state_h": hidden, "recurrent_state_c": hidden}
    step |= flags
    values = {"action": 2 * 8, "action_value": 2 * 4, "chosen_action_value": 4}
    stored = step | {f"next.{name}": size for name, size in step.items()} | values
    stored |= {"next.reward": 4, "collector.traj_ids": 8, "index": 8, "embed": hidden}
    assert pictures.classic_entries() == stored
    assert sum(stored.values()) == 59_080


def test_every_frame_of_a_batch_passes_each_network_once():
    """Ours reads o_0 .. o_T of each slice and no filling; the classic loss o_t and its next."""
    cfg = Config.preset("pixel-cartpole").replace(replay={"slices": 4, "slice_len": 5})
    loss, (batch,) = pictures.our_learner(cfg, frames=64, batches=1)
    convolutions = loss.value_network.module[0].module
    assert 4 < batch.numel() < 20
    assert pictures.encoded_frames(convolutions, lambda: loss(batch)) == 2 * (batch.numel() + 4)

    loss, batch = pictures.classic_learner(rows=1)
    convolutions = loss.value_network.module[0].module
    assert pictures.encoded_frames(convolutions, lambda: loss(batch[:, :4].clone())) == 2 * 4


@pytest.mark.parametrize(("name", "most"), [("ours", 0), ("classic", 6)])
def test_full_size_copies_of_a_step(name, most):
    """Tensors as large as the 600x400 picture that PyTorch writes for one step of one env."""
    env = classic.make_env(frames=2) if name == "classic" else make_env(pictures._config(num_envs=1).env)
    env.reset()
    now = env.reset()  # the first two pictures are compared with the frame
    now["action"] = torch.tensor([0, 1])
    with pictures.LargeTensors(600 * 400) as large:
        env.step(now)
    env.close()
    assert large.count <= most


# --- the plain loop -------------------------------------------------------------------------------------


def both_losses(cfg):
    """The package's loss and the plain one, with the same weights, and a batch in the form of each."""
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    loss = RecurrentDQNLoss(
        policy[:-1], action_space="one-hot", gamma=cfg.loss.gamma, n_steps=cfg.loss.n_steps
    )
    SoftUpdate(loss, tau=cfg.loss.tau)
    with torch.no_grad():  # the target network is another one than the online network
        for weight in loss.target_value_network_params.values(True, True):
            weight.data += 0.1 * torch.randn_like(weight)
    buffer = make_replay_buffer(cfg)
    for _ in make_collector(cfg, env, policy, buffer):
        pass
    batch = buffer.sample()

    online, target = plain.Network(cfg), plain.Network(cfg)
    names = [name for name, _ in policy[:-1].named_parameters()]
    weights = loss.target_value_network_params.flatten_keys(".")
    with torch.no_grad():
        for mine, of_package in zip(online.parameters(), policy.parameters(), strict=True):
            mine.copy_(of_package)
        for mine, name in zip(target.parameters(), names, strict=True):
            mine.copy_(weights[name])

    starts = batch["is_init"].flatten().nonzero().flatten().tolist()
    slices = [batch[a:b] for a, b in zip(starts, [*starts[1:], len(batch)], strict=True)]
    seen = [torch.cat([part["observation"], part["next", "observation"][-1:]]) for part in slices]
    rows = plain.Batch(
        observation=pad_sequence(seen, batch_first=True),
        state=tuple(batch[f"recurrent_state_{k}"][starts].transpose(0, 1) for k in "hc"),
        action=pad_sequence([part["action"].argmax(-1) for part in slices], batch_first=True),
        reward=pad_sequence([part["next", "reward"][:, 0] for part in slices], batch_first=True),
        terminated=pad_sequence([part["next", "terminated"][:, 0] for part in slices], batch_first=True),
        length=torch.tensor([len(part) for part in slices]),
    )
    return (loss, batch), (online, target, rows)


@pytest.mark.parametrize("n_steps", [1, 5])
def test_plain_loss_and_gradients_are_the_packages(tiny, n_steps):
    cfg = tiny.replace(
        loss={"n_steps": n_steps, "gamma": 0.9}, env={"reward_scale": 1.0}, replay={"slices": 16}
    )
    (loss, batch), (online, target, rows) = both_losses(cfg)
    assert len(set(rows.length.tolist())) > 1 and rows.terminated.any() and not rows.terminated.all()
    ours, theirs = loss(batch)["loss"], plain.loss(online, target, rows, cfg)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.backward()
    gradients = [weight.grad for weight in loss.parameters() if weight.grad is not None]
    for mine, of_package in zip(online.parameters(), gradients, strict=True):
        torch.testing.assert_close(mine.grad, of_package, rtol=1e-5, atol=1e-5)
    assert max(gradient.abs().max() for gradient in gradients) > 1e-2
    assert all(weight.grad is None for weight in target.parameters())


def test_an_update_reads_the_slices_once_with_each_network(tiny):
    (loss, batch), (online, target, rows) = both_losses(tiny)
    shapes = {"ours": [], "plain": []}

    def note(name):
        return lambda module, given, _: shapes[name].append(tuple(given[0].shape[:2]))

    lstm = next(module for module in loss.value_network.modules() if isinstance(module, nn.LSTM))
    lstm.register_forward_hook(note("ours"))
    for network in (online, target):
        network.memory.register_forward_hook(note("plain"))
    loss(batch)["loss"].backward()
    plain.loss(online, target, rows, tiny).backward()
    read = (tiny.replay.slices, int(rows.length.max()) + 1)
    assert shapes == {"ours": [read] * 2, "plain": [read] * 2}


def test_plain_slices_lie_inside_episodes_and_every_step_comes_up_equally_often(tiny):
    """In a ring of 40 steps that has gone round: the observation says which step of which env it is."""
    cfg = tiny.replace(env={"num_envs": 2}, replay={"capacity": 80, "slice_len": 5, "slices": 32})
    buffer = plain.Buffer(cfg, np.random.default_rng(0))
    ends = {0: {0, 3, 17, 18, 30, 41}, 1: {9, 52}}
    for step in range(55):
        done = np.array([step in ends[env] for env in range(2)])
        here = torch.tensor([[step, 0.0], [step, 1.0]])
        zeros = torch.zeros(2)
        buffer.add(
            done,
            observation=here,
            next_observation=here + torch.tensor([0.5, 0.0]),
            h=here.repeat(1, cfg.policy.hidden_size // 2),
            c=-here.repeat(1, cfg.policy.hidden_size // 2),
            action=zeros.long(),
            reward=zeros + step,
            terminated=torch.from_numpy(done),
        )
    buffer.index()
    counts = np.zeros((2, 55))
    for _ in range(300):
        batch = buffer.sample()
        for row, length in enumerate(batch.length.tolist()):
            seen = batch.observation[row]
            first, env = int(seen[0, 0]), int(seen[0, 1])
            steps = torch.arange(first, first + length)
            assert 1 <= length <= 5 and seen[:length].tolist() == [[step, env] for step in steps.tolist()]
            assert not batch.terminated[row, : length - 1].any()
            assert batch.terminated[row, length - 1] == (int(steps[-1]) in ends[env])
            assert seen[length].tolist() == [steps[-1] + 0.5, env] and not seen[length + 1 :].any()
            assert (batch.reward[row, :length] == steps).all()
            assert batch.state[0][0, row, :2].tolist() == [first, env]
            assert batch.state[1][0, row, :2].tolist() == [-first, -env]
            counts[env, first : first + length] += 1
    assert not counts[:, :15].any()  # overwritten
    assert abs(counts[:, 15:] / counts[:, 15:].mean() - 1).max() < 0.2


def test_a_tiny_plain_run_makes_the_same_updates(tiny):
    network, updates = plain.train(tiny)
    assert updates == 10 == masked.train_without_evaluation(tiny).metrics[-1]["updates"]
    assert network.head[-1].bias.isfinite().all()
    torch.manual_seed(tiny.seed)
    start = plain.Network(tiny)
    assert any((a != b).any() for a, b in zip(network.parameters(), start.parameters(), strict=True))
    seen = []
    plain.train(tiny, lambda _, collection: seen.append(collection) or collection == 3)
    assert seen == [1, 2, 3]
    with pytest.raises(ValueError, match="LSTM"):
        plain.train(tiny.replace(policy={"cell": "gru"}))


# --- the buffer -----------------------------------------------------------------------------------------


def test_synthetic_episodes_go_on_from_one_stretch_to_the_next(tiny):
    env = make_env(tiny.env)
    policy = make_policy(tiny.policy, env)
    add_primers(env, policy)
    buffer_of_8 = make_replay_buffer(tiny)
    collector = make_collector(tiny, env, policy, buffer_of_8)
    next(iter(collector))
    collector.shutdown()
    stretches = buffer.synthetic_episodes(buffer_of_8[:], 600)
    data = torch.cat([next(stretches) for _ in range(3)], 1)  # [8, 1800]
    numbers, count = data["collector", "traj_ids"], data["step_count"][..., 0]
    new = numbers[:, 1:] != numbers[:, :-1]
    assert torch.equal(new, data["next", "done"][:, :-1, 0])
    assert torch.equal(count[:, 1:], torch.where(new, 0, count[:, :-1] + 1))
    assert torch.equal(data["is_init"][..., 0], count == 0)
    lengths = data["next", "step_count"][data["next", "done"]]
    assert lengths.min() >= 10 and 200 < lengths.max() <= 500 and lengths.unique().numel() > 50
    assert numbers[new.nonzero()[:, 0], new.nonzero()[:, 1]].unique().numel() == new.sum()


def test_the_size_row_runs():
    row = buffer.size_row(small=320, large=640, repeats=1)
    assert row.ratio == pytest.approx(row.ours / row.other)
    assert row.met == (row.ratio <= 1.5)


def test_a_full_disk_is_refused(monkeypatch):
    monkeypatch.setattr(buffer.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    with pytest.raises(SystemExit, match=r"needs 10.0 GB in .*, and 1.0 GB are free: set TMPDIR") as caught:
        buffer.memory_row()
    assert "\n" not in str(caught.value)


def test_the_stop_row_runs():
    row = stop.stop_row("masked-cartpole", after=1_024)
    assert row.met == (row.ours <= 5) and row.ours > 0
    megabytes = int(row.what.split()[-2])
    assert 1_024 * 1_000 / 1e6 < megabytes < 10  # a step takes a kilobyte, mostly its recurrent states


def test_the_plain_loop_computes_the_same_with_its_weights_in_one_vector():
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": 4}, train={"frames_per_batch": 32, "total_frames": 128, "warmup_frames": 64}
    )
    (many, updates), (one, _) = (plain.train(cfg, one_vector=vector) for vector in (False, True))
    assert updates == 24
    for ours, other in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


# --- samplers -----------------------------------------------------------------------------------------------


def test_the_stock_sampler_is_the_one_that_trains(tiny, tmp_path):
    with sampler.stock_sampler():
        buffer = make_replay_buffer(tiny, tmp_path)
    assert type(buffer.sampler) is SliceSampler
    env = make_env(tiny.env)
    policy = make_policy(tiny.policy, env)
    add_primers(env, policy)
    next(iter(make_collector(tiny, env, policy, buffer)))
    batch = buffer.sample()
    first = batch["is_init"].flatten().nonzero().flatten()
    episode, step = batch["collector", "traj_ids"], batch["step_count"].flatten()
    for part, number in zip(step.tensor_split(first[1:]), episode.tensor_split(first[1:]), strict=True):
        assert (number == number[0]).all() and (part.diff() == 1).all()


# --- growth with the sizes ----------------------------------------------------------------------------------


def test_the_exponent_is_the_slope_for_large_sizes():
    fixed_and_linear = {n: 3.0 + 2e-6 * n for n in (1, 10, 10**8, 10**9, 10**10)}
    assert scaling.exponent(fixed_and_linear) == pytest.approx(1.0, abs=0.01)
    assert scaling.exponent({n: 0.5 for n in (1, 10, 100)}) == pytest.approx(0.0)


def test_every_size_is_measured():
    assert set(scaling.frames((1, 2), repeats=1)) == {1, 2}
    by_slices, by_length = scaling.updates((2, 4), (20, 30), repeats=1)
    assert set(by_slices) == {2, 4} and set(by_length) == {20, 30}
    assert set(scaling.samples((10_000,), repeats=1)) == {10_000}
