"""Statements of chapters 1 to 3 about other libraries that no cell shows."""

import gymnasium as gym
import pytest
import torch
from cartpole_parts import cartpole, lstm, policy_of
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import (
    Compose,
    GrayScale,
    GymEnv,
    InitTracker,
    ObservationNorm,
    ParallelEnv,
    Resize,
    SerialEnv,
    TensorDictPrimer,
    ToTensorImage,
    TransformedEnv,
)
from torchrl.modules import (
    LSTMModule,
)
from torchrl.modules.utils import get_env_transforms_from_module

from recdqn.envs import prepare_display

# --- chapter 1 ------------------------------------------------------------------------------------------


def test_cartpoles_limits_and_reward():
    env = gym.make("CartPole-v1")
    cartpole = env.unwrapped
    assert cartpole.theta_threshold_radians == pytest.approx(torch.deg2rad(torch.tensor(12.0)).item())
    assert (cartpole.x_threshold, env.spec.max_episode_steps) == (2.4, 500)
    env.reset(seed=0)
    rewards = [env.step(1)[1] for _ in range(8)]
    assert rewards == [1.0] * 8


def test_a_seed_starts_the_episode_of_the_second_reset():
    env, plain = GymEnv("CartPole-v1"), gym.make("CartPole-v1")
    for _ in range(2):
        env.set_seed(0)
        first = env.reset()["observation"]
        plain.reset(seed=0)
        assert torch.equal(first, torch.as_tensor(plain.reset()[0]))


@pytest.fixture(scope="module")
def frame():
    """A cart in the middle, and one screen pixel to the right, ``[2, 400, 600, 3]``."""
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    frames = []
    for x in (0.0, 4.8 / 600):
        env.unwrapped.state = (x, 0.0, 0.0, 0.0)
        frames.append(torch.tensor(env.render()))
    env.close()
    return torch.stack(frames)


def test_what_the_image_transforms_compute(frame):
    image = ToTensorImage()(TensorDict({"pixels": frame[0]}))
    torch.testing.assert_close(image["pixels"], frame[0].permute(2, 0, 1) / 255)
    weights = torch.tensor([0.2989, 0.587, 0.114])
    grey = GrayScale()(image.clone())["pixels"]
    torch.testing.assert_close(grey, (image["pixels"] * weights[:, None, None]).sum(0, keepdim=True))
    assert grey.max() == pytest.approx(0.9999)  # white


def test_a_screen_pixel_of_movement_changes_the_small_picture(frame):
    small = [Compose(ToTensorImage(), GrayScale(), Resize(84, 84))(TensorDict({"pixels": f})) for f in frame]
    change = (small[1]["pixels"] - small[0]["pixels"]).abs()
    assert 1 / 255 < change.max() < 0.5  # an edge changes by a part of its grey level


def test_bounds_of_image_specs():
    prepare_display()
    env = TransformedEnv(GymEnv("CartPole-v1", from_pixels=True), ToTensorImage())
    spec = env.observation_spec["pixels"]
    assert (spec.space.low.min(), spec.space.high.max(), spec.dtype) == (0, 1, torch.float32)
    assert type(spec).__name__ == "UnboundedDiscrete"
    env.append_transform(GrayScale())
    assert env.observation_spec["pixels"].space.high.max() > 1e30
    env.close()


def test_several_norms_are_initialised_from_first_to_last():
    env = GymEnv("CartPole-v1")
    env = TransformedEnv(env, Compose(*(ObservationNorm(in_keys=["observation"]) for _ in range(2))))
    with pytest.raises(RuntimeError, match="right order"):
        env.transform[1].init_stats(10, reduce_dim=0)
    env.transform[0].init_stats(10, reduce_dim=0)
    env.transform[1].init_stats(10, reduce_dim=0)
    assert env.reset()["observation"].isfinite().all()


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ({"reduce_dim": [0, 1, 2], "keep_dims": [0]}, (1, 64)),
        ({"reduce_dim": [0, 1, 2, 3], "keep_dims": [1, 2, 3]}, (1, 1, 1)),
        ({"reduce_dim": [0, 2, 3]}, (3,)),
        ({"reduce_dim": [0, 2, 3], "keep_dims": [2, 3]}, (3, 1, 1)),
    ],
)
def test_shapes_of_the_statistics_of_colour_images(dims, shape):
    prepare_display()
    norm = ObservationNorm(in_keys=["pixels"])
    env = TransformedEnv(GymEnv("CartPole-v1", from_pixels=True), Compose(ToTensorImage(), Resize(64), norm))
    norm.init_stats(5, cat_dim=0, **dims)
    env.close()
    assert norm.loc.shape == shape
    if shape == (3,):  # broadcast against the columns
        with pytest.raises(RuntimeError, match="must match"):
            norm(torch.zeros(3, 64, 64))


# --- chapter 2 ------------------------------------------------------------------------------------------


def test_an_lstm_module_needs_the_size_of_its_input():
    with pytest.raises(TypeError, match="input_size"):
        LSTMModule(hidden_size=3, in_key="embed", out_key="memory")


def test_dropout_needs_two_layers():
    with pytest.warns(UserWarning, match="all but last recurrent layer"):
        lstm(dropout=0.5)


def test_fake_data_is_zeros_with_the_keys_of_a_step():
    env = cartpole(InitTracker())
    fake = env.fake_tensordict()
    step = env.rollout(1)[0]
    assert set(fake.keys(True, True)) == set(step.keys(True, True))
    assert all(fake[key].shape == step[key].shape and not fake[key].any() for key in fake.keys(True, True))


@pytest.mark.filterwarnings("ignore:The EGreedyModule")
def test_a_collector_can_add_tracker_and_primer_and_explores():
    policy, env = policy_of(lstm()), cartpole()
    collector = Collector(
        env, policy, frames_per_batch=200, total_frames=200, auto_register_policy_transforms=True
    )
    (batch,) = (data.clone() for data in collector)
    kinds = [type(transform).__name__ for transform in env.transform]
    collector.shutdown()
    assert sorted(kinds) == ["InitTracker", "TensorDictPrimer"]
    assert batch["recurrent_state_h"].any()
    best = batch["action_value"].argmax(-1) == batch["action"].argmax(-1)
    assert 0.3 < best.float().mean() < 0.7  # epsilon is 1, and no context was set
    assert policy[-1].eps == 1  # the collector did not step it


def test_transforms_from_a_module_include_a_tracker():
    kinds = [type(transform) for transform in get_env_transforms_from_module(policy_of(lstm()))]
    assert kinds == [InitTracker, TensorDictPrimer]


# --- chapter 3 ------------------------------------------------------------------------------------------


def test_a_primer_in_each_worker_gives_the_same_numbers():
    memory = lstm()
    policy = policy_of(memory)[:-1]

    def one():
        return cartpole(InitTracker())

    def primed():
        return cartpole(InitTracker(), memory.make_tensordict_primer())

    outside = TransformedEnv(SerialEnv(2, one), memory.make_tensordict_primer())
    rollouts = []
    for env in (outside, SerialEnv(2, primed)):
        env.reset()
        env.set_seed(0)
        with torch.no_grad():
            rollouts.append(env.rollout(30, policy, break_when_any_done=False))
        env.close()
    assert (rollouts[0] == rollouts[1]).all()


def test_a_parallel_env_warns_about_a_lambda():
    with pytest.warns(UserWarning, match="lambda"):
        ParallelEnv(2, lambda: GymEnv("CartPole-v1"))
