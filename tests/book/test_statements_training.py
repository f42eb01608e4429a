"""Statements of chapters 5 and 6 and of the pages after them about other libraries that no cell shows."""

import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from unittest import mock

import gymnasium as gym
import numpy as np
import pygame
import pytest
import torch
from cartpole_parts import cartpole, lstm, policy_of
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.wrappers import DiscretizeAction, FlattenObservation
from tensordict import TensorDict
from torch.nn.utils import clip_grad_norm_
from torchrl.collectors import Collector
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedSliceSampler,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.envs import InitTracker, StepCounter
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import DQNLoss, SoftUpdate

from recdqn import Config, make_env, make_policy

# --- chapter 5 ------------------------------------------------------------------------------------------


def test_memory_mapped_files_are_made_when_the_first_data_comes(tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(1_000, scratch_dir=tmp_path))
    assert not list(tmp_path.rglob("*.memmap"))
    buffer.extend(TensorDict({"step": torch.arange(10)}, [10]))
    (file,) = tmp_path.rglob("step.memmap")
    assert file.stat().st_size == 1_000 * 8
    assert np.memmap(file, np.int64)[:10].tolist() == list(range(10))


def test_a_collector_fills_a_buffer_with_steps_whose_beginning_has_no_flag():
    env, policy = cartpole(InitTracker(), lstm().make_tensordict_primer()), policy_of(lstm())
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200))
    collector = Collector(env, policy, frames_per_batch=50, total_frames=200, replay_buffer=buffer)
    assert list(collector) == [None] * 4
    collector.shutdown()
    steps = buffer[:]
    assert len(steps) == 200 and steps["next", "done"].sum() > 2
    assert not any(steps[flag].any() for flag in ("done", "terminated", "truncated"))


def drawn_steps(lengths, slice_len, slices, **options):
    """How often each step of some episodes is drawn, and the number of its episode."""
    episode = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    end = torch.zeros(len(episode), 1, dtype=torch.bool)
    data = TensorDict({"step": torch.arange(len(episode)), "episode": episode}, [len(episode)])
    data["next", "truncated"] = data["next", "done"] = end
    data["is_init"] = end.clone()
    sampler = SliceSampler(slice_len=slice_len, strict_length=False, traj_key="episode", **options)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(episode)), sampler=sampler, batch_size=slices * slice_len
    )
    buffer.extend(data)
    batch = buffer.sample()
    return batch, batch["step"].bincount(minlength=len(episode)).float().split(lengths)


def test_a_step_of_a_short_episode_is_drawn_as_often_as_the_numbers_of_places_say():
    """The question of the quiz: 20 and 400 steps, slices of 20."""
    _, (short, long) = drawn_steps([20, 400], 20, 40_000)
    middle = long[100:300].mean() / 40_000
    assert middle.item() == pytest.approx(0.5 * 20 / 381, rel=0.03)
    assert short.mean().item() / 40_000 == pytest.approx(0.5, rel=0.02)


def test_span_draws_ends_as_often_as_the_middle_and_short_episodes_still_as_often_as_long_ones():
    batch, (short, long) = drawn_steps([10, 200], 10, 40_000, span=True)
    ends, middle = torch.stack([long[0], long[-1]]), long[20:-20].mean()
    assert ((ends / middle - 1).abs() < 0.15).all() and short.mean() > 5 * middle
    of_slice = batch["episode"][batch["is_init"].squeeze(-1)]
    assert of_slice.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_clip_grad_norm_returns_the_length_before_clipping():
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm_([weight], 1.0) == 5
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]))


def a_loss():
    env, policy = cartpole(InitTracker(), lstm().make_tensordict_primer()), policy_of(lstm())
    with torch.no_grad():
        batch = env.rollout(10, policy)
    loss = DQNLoss(policy[:-1], action_space=env.action_spec)
    return policy, loss, SoftUpdate(loss, tau=0.1), batch


def test_a_policy_that_moves_after_the_loss_was_built_leaves_the_targets_weights_behind():
    policy, loss, _, _ = a_loss()
    policy.to(torch.float64)  # as for a device
    kinds = {weight.dtype for weight in loss.target_value_network_params.values(True, True)}
    assert kinds == {torch.float32} and policy[0].module.weight.dtype == torch.float64


def test_a_new_collector_begins_new_episodes_although_its_state_was_loaded():
    def make():
        env, policy = cartpole(InitTracker(), StepCounter()), policy_of(lstm())
        env.append_transform(policy[1].make_tensordict_primer())
        return Collector(env, policy, frames_per_batch=5, total_frames=-1)

    first, second = make(), make()
    next(iter(first))
    state = first.state_dict()
    assert next(iter(first))["step_count"][0] == 5  # an episode of CartPole has at least eight steps
    second.load_state_dict(state)
    assert next(iter(second))["step_count"][0] == 0
    first.shutdown()
    second.shutdown()


def test_a_random_episode_of_cartpole_has_about_22_steps():
    env = gym.make("CartPole-v1")
    assert env.unwrapped.tau == 0.02
    env.reset(seed=0)
    env.action_space.seed(0)
    lengths = []
    for _ in range(500):
        env.reset()
        length, over = 0, False
        while not over:
            _, _, over, _, _ = env.step(env.action_space.sample())
            length += 1
        lengths.append(length)
    assert statistics.mean(lengths) == pytest.approx(22, abs=1.5)


# --- chapter 6 ------------------------------------------------------------------------------------------


def test_render_flips_the_surface_and_then_copies_the_screen_once():
    env = gym.make("CartPole-v1", render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    calls = mock.Mock()
    with (
        mock.patch("pygame.transform.flip", side_effect=pygame.transform.flip) as calls.flip,
        mock.patch("pygame.surfarray.pixels3d", side_effect=pygame.surfarray.pixels3d) as calls.copy,
    ):
        frame = env.render()
    assert (calls.flip.call_count, calls.copy.call_count) == (1, 1)
    assert frame.base is not None and not np.shares_memory(frame, pygame.surfarray.pixels3d(env.screen))
    env.close()


def test_a_surface_has_four_bytes_a_pixel_and_is_read_without_a_copy():
    surface = pygame.Surface((60, 40), depth=32)
    assert surface.get_bytesize() == 4
    pixels = torch.from_numpy(np.frombuffer(surface.get_buffer(), np.uint8).reshape(40, 60, 4))
    surface.fill((1, 2, 3))
    colours = [shift // 8 for shift in surface.get_shifts()[:3]]
    assert pixels[0, 0, colours].tolist() == [1, 2, 3]


def test_a_loss_puts_the_targets_weights_into_the_network_and_takes_them_out_again():
    policy, loss, _, batch = a_loss()
    with torch.no_grad():
        loss.target_value_network_params.data.zero_()
    used = []
    loss.value_network[0].module.register_forward_hook(lambda module, *_: used.append(module.weight.any()))
    loss(batch)
    assert [bool(any_weight) for any_weight in used] == [True, False]
    assert policy[0].module.weight.any()


def test_adam_keeps_two_tensors_for_each_weight_however_many_updates_it_has_seen():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimiser = torch.optim.Adam([weight])
    for _ in range(5):
        weight.square().sum().backward()
        optimiser.step()
        kept = [value for value in optimiser.state[weight].values() if value.shape == weight.shape]
        assert len(kept) == 2


# --- backends, sampling and workers ---------------------------------------------------------------------


def test_the_backends_of_a_recurrent_module():
    """The default is "pad"; "scan" computes the same; "auto" scans only where PyTorch compiles."""
    steps = TensorDict(embed=torch.randn(2, 6, 4), is_init=torch.zeros(2, 6, 1) > 0, batch_size=[2, 6])
    steps["is_init"][0, 2] = True
    modules = {backend: lstm(recurrent_backend=backend) for backend in ("pad", "scan", "auto")}
    assert lstm().recurrent_backend == "pad"
    weights = modules["pad"].state_dict()
    outputs = {}
    with torch.no_grad(), set_recurrent_mode(True):
        for name, module in modules.items():
            module.load_state_dict(weights)
            outputs[name] = module(steps.clone())["memory"]
    assert torch.equal(outputs["auto"], outputs["pad"])
    torch.testing.assert_close(outputs["scan"], outputs["pad"], atol=1e-6, rtol=0)
    deep = lstm(recurrent_backend="auto", num_layers=2, dropout=0.5)
    with set_recurrent_mode(True):
        deep(steps.clone())
        compiling = mock.patch("torchrl.modules.tensordict_module.rnn.is_compiling", return_value=True)
        with compiling, pytest.raises(NotImplementedError, match="scan"):
            deep(steps.clone())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_triton_backend_needs_a_gpu():
    steps = TensorDict(embed=torch.randn(2, 6, 4), is_init=torch.zeros(2, 6, 1) > 0, batch_size=[2, 6])
    with (
        set_recurrent_mode(True),
        pytest.raises((RuntimeError, NotImplementedError, ValueError, ImportError)),
    ):
        lstm(recurrent_backend="triton")(steps)


def test_no_prioritised_slice_starts_in_the_last_steps_and_the_buffer_takes_the_errors():
    steps = 210
    end = torch.zeros(steps, 1, dtype=torch.bool)
    data = TensorDict({"step": torch.arange(steps), "episode": torch.arange(steps) >= 10}, [steps])
    data["next", "done"], data["next", "truncated"], data["is_init"] = end, end.clone(), end.clone()
    sampler = PrioritizedSliceSampler(
        steps, alpha=1.0, beta=0.0, slice_len=10, strict_length=False, traj_key="episode"
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(steps), sampler=sampler, batch_size=20_000, priority_key="td_error"
    )
    buffer.extend(data)
    starts = buffer.sample()["step"].reshape(-1, 10)[:, 0]
    assert starts.max() == 200
    batch = buffer.sample()
    batch["td_error"] = torch.where(batch["step"] == 100, 1e4, 1.0)
    buffer.update_tensordict_priority(batch)
    starts = buffer.sample()["step"].reshape(-1, 10)[:, 0]
    assert (starts == 100).float().mean() > 0.5


def test_episodes_of_the_same_number_side_by_side_are_one_to_the_sampler():
    number = torch.zeros(20, dtype=torch.long)
    end = torch.zeros(20, 1, dtype=torch.bool)
    data = TensorDict({"count": torch.arange(10).repeat(2), "episode": number}, [20])
    data["next", "done"] = data["next", "truncated"] = data["is_init"] = end
    sampler = SliceSampler(slice_len=15, traj_key="episode")
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), sampler=sampler, batch_size=15)
    buffer.extend(data)
    assert (buffer.sample()["count"].diff() < 0).any()


def test_a_prefetched_batch_may_be_older_than_the_newest_data():
    def samples_until_new_data(prefetch):
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2_000), prefetch=prefetch, batch_size=500)
        buffer.extend(TensorDict({"new": torch.zeros(1_000)}, [1_000]))
        with mock.patch.object(buffer.storage, "get", wraps=buffer.storage.get) as read:
            buffer.sample()
            for _ in range(1_000):  # until all that it draws in the background is drawn
                if read.call_count > (prefetch or 0):
                    break
                time.sleep(0.01)
        buffer.extend(TensorDict({"new": torch.ones(1_000)}, [1_000]))
        return next(count for count in range(1, 100) if buffer.sample()["new"].any())

    assert samples_until_new_data(None) == 1 < samples_until_new_data(10) <= 11


def test_cached_episodes_are_recommended_for_static_data():
    assert "static datasets" in SliceSampler.__doc__.split("cache_values (bool")[1][:100]


# --- when things go wrong, train on your own environment ------------------------------------------------


class Program:
    def __reduce__(self):
        return pytest.fail, ("code ran",)


def test_a_pickle_can_run_code_and_weights_only_refuses_it(tmp_path):
    torch.save(Program(), tmp_path / "file")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(tmp_path / "file", weights_only=True)
    with pytest.raises(pytest.fail.Exception, match="code ran"):
        torch.load(tmp_path / "file", weights_only=False)


def a_pendulum():
    return DiscretizeAction(gym.make("Pendulum-v1"), 5)


def a_lake():
    return FlattenObservation(gym.make("FrozenLake-v1"))


@pytest.mark.parametrize(("make", "size"), [(a_pendulum, 3), (a_lake, 16)])
def test_the_wrappers_that_the_messages_name_help(make, size):
    seen = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "num_envs": 1}
    env = make_env(Config.preset("masked-cartpole").replace(env={"id": make, **seen}).env)
    assert env.rollout(1)["observation"].shape == (1, size)  # the lake may have a hole two steps away
    env.close()


class Both(gym.Env):
    observation_space = Dict({"a": Box(-1, 1, (2,)), "b": Box(-1, 1, (3,))})
    action_space = Discrete(2)

    def reset(self, seed=None, options=None):
        return {"b": np.full(3, 0.5, np.float32), "a": np.zeros(2, np.float32)}, {}


def test_a_dict_of_vectors_flattens_to_one_vector():
    assert FlattenObservation(Both()).reset()[0].tolist() == [0, 0, 0.5, 0.5, 0.5]


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGTERM elsewhere")
def test_a_program_that_has_drawn_ignores_sigterm():
    code = (
        "import gymnasium as gym\n"
        "env = gym.make('CartPole-v1', render_mode='human')\n"
        "env.reset()\n"
        "print('drawn', flush=True)\n"
        "input()\n"
        "print('alive', flush=True)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "SDL_NO_SIGNAL_HANDLERS"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment | {"SDL_VIDEODRIVER": "dummy"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        while "drawn" not in (line := process.stdout.readline()):
            assert line, "it ended early"
        process.send_signal(signal.SIGTERM)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "alive\n"


# --- what is next ---------------------------------------------------------------------------------------


def test_the_settings_of_the_last_page_are_settings_and_the_head_is_one_module():
    cfg = Config.preset("masked-cartpole")
    for values in (
        {"loss": {"n_steps": 1}},
        {"loss": {"burn_in": 5}},
        {"policy": {"cell": "gru"}},
        {"replay": {"slice_len": 4}},
        {"env": {"id": "Acrobot-v1", "observation": "whole", "loc": (0.0,), "scale": (1.0,)}},
        {"env": {"visible": (3,), "loc": (0.0,), "scale": (1.0,)}},
    ):
        changed = cfg.replace(**values)
        policy = make_policy(changed.policy, make_env(changed.env))
        assert (policy[2].in_keys, policy[2].out_keys) == (["memory"], ["action_value"])
