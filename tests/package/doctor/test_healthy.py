"""The doctor finds nothing in pipelines without bugs, made with this package, with TorchRL or by hand."""

from functools import partial

import pytest
import torch
from pipelines import (
    codes,
    collect,
    loss_parts,
    lstm,
    network,
    pipeline,
    primed,
    slices,
    small,
    stored,
    vector_env,
)
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Binary, LazyMemmapStorage, TensorDictReplayBuffer, Unbounded
from torchrl.envs import (
    Compose,
    GrayScale,
    GymEnv,
    InitTracker,
    ObservationNorm,
    ParallelEnv,
    Resize,
    RewardScaling,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    ToTensorImage,
    Transform,
    TransformedEnv,
)
from torchrl.modules import MLP, ConvNet, EGreedyModule, LSTMModule, QValueModule
from torchrl.objectives import DQNLoss, HardUpdate, SoftUpdate

from recdqn import diagnose
from recdqn.envs import prepare_display


@pytest.mark.parametrize(
    "cfg",
    [
        small(),
        small(cell="gru"),
        small(num_envs=1),
        small("pixel-cartpole", num_envs=1),
        small("pixel-cartpole", num_envs=2),
    ],
    ids=["masked", "gru", "one environment", "pixels", "pixels in a batch"],
)
def test_the_package_is_healthy(cfg):
    report = diagnose(**pipeline(cfg))
    assert codes(report) == []
    assert not any("failed" in reason for reason in report.skipped.values())
    pixels = cfg.env.observation == "pixels"
    assert ("masked-leak" in report.skipped) == pixels  # there is no vector to hide


def test_a_policy_without_memory_is_healthy():
    parts = pipeline(small(cell="none"))
    report = diagnose(**parts)
    assert codes(report) == []
    assert (
        report.skipped["no-primer"]
        == report.skipped["recurrent-mode-off"]
        == "the policy has no recurrent state"
    )
    assert codes(diagnose(loss=parts["loss"], buffer=parts["buffer"])) == []


@pytest.mark.parametrize("options", [{}, {"traj_key": None, "end_key": ("next", "done"), "num_slices": 8}])
def test_torchrls_recurrent_settings_are_healthy(options):
    """Collector, slices and an LSTM as TorchRL's recurrent examples set them, on vectors."""
    policy = network(lstm(in_key="embed", out_key="embed"))
    env = primed(policy)
    options = options | {"slice_len": None} if "num_slices" in options else options
    buffer = stored(collect(env, policy), slices(**options), prefetch=3)
    report = diagnose(env=env, policy=policy, buffer=buffer)
    assert codes(report) == [] and not any("failed" in why for why in report.skipped.values())


def test_collectors_that_end_inside_episodes_store_every_step():
    """Episodes of 30 steps and collectors of 10: only a new collector's numbers repeat."""
    policy = network()
    env = primed(policy, StepCounter(max_steps=30, step_count_key="count"))
    buffer = stored(torch.cat([collect(env, policy, frames=100)[:10] for _ in range(8)]))
    assert codes(diagnose(env=env, policy=policy, buffer=buffer)) == ["slice-over-episodes"]


@pytest.mark.parametrize("batched", [SerialEnv, ParallelEnv])
def test_a_batched_environment_is_checked_in_this_process(batched):
    policy = network()
    env = TransformedEnv(batched(2, vector_env), policy[1].make_tensordict_primer())
    try:
        assert codes(diagnose(env=env, policy=policy)) == []
        assert env.base_env.is_closed  # it was never started
    finally:
        env.close(raise_if_closed=False)


def test_a_batch_of_environments_without_transforms_of_its_own():
    report = diagnose(env=SerialEnv(2, vector_env))
    assert codes(report) == [] and "norm-per-column" in report.checked


def classic(statistics: dict):
    """The classic tutorial's pipeline: images, a pooled network, rows of 50 steps."""
    prepare_display()
    norm = ObservationNorm(standard_normal=True, in_keys=["pixels"])
    images = [ToTensorImage(), GrayScale(), Resize(84, 84)]
    see = [*images, StepCounter(), InitTracker(), RewardScaling(0.0, 0.1), norm]
    env = TransformedEnv(GymEnv("CartPole-v1", from_pixels=True), Compose(*see))
    env.set_seed(0)
    norm.init_stats(20, **statistics)
    pool = {"aggregator_class": nn.AdaptiveAvgPool2d, "aggregator_kwargs": {"output_size": (1, 1)}}
    features = TensorDictModule(ConvNet(num_cells=[8, 8], squeeze_output=True, **pool), ["pixels"], ["embed"])
    width = features(env.reset())["embed"].shape[-1]
    memory = LSTMModule(input_size=width, hidden_size=128, in_key="embed", out_key="embed")
    env.append_transform(memory.make_tensordict_primer())
    head = TensorDictModule(MLP(128, 2, num_cells=[64]), ["embed"], ["action_value"])
    spec = env.action_spec
    explore = EGreedyModule(spec, eps_init=0.2, annealing_num_steps=1_000_000)
    policy = TensorDictSequential(features, memory, head, QValueModule(spec=spec), explore)
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(20_000), batch_size=1, prefetch=10)
    collector = Collector(env, policy, frames_per_batch=50, total_frames=100)
    for data in collector:
        buffer.extend(data.unsqueeze(0).to_tensordict().cpu())
        policy[-1].step(data.numel())
    collector.shutdown(close_env=False)
    loss = DQNLoss(policy[:-1], action_space=spec, delay_value=True)
    loss.make_value_estimator(gamma=0.99)
    updater = SoftUpdate(loss, eps=0.95)
    return {"env": env, "policy": policy, "buffer": buffer, "loss": loss, "updater": updater}


def test_the_classic_tutorials_settings():
    """Its statistics and its loss are wrong and its images take much memory; the rest is right."""
    wasteful = ["pixels-float32", "pixels-twice"]
    published = classic({"reduce_dim": [0, 1, 2], "cat_dim": 0, "keep_dims": [0]})
    assert codes(diagnose(**published)) == ["norm-per-column", "target-leak", *wasteful]
    right = classic({"reduce_dim": [0, 2, 3], "cat_dim": 0, "keep_dims": [2, 3]})
    del right["loss"], right["updater"]
    assert codes(diagnose(**right)) == wasteful


def test_a_hard_update_with_a_long_interval_moves():
    parts = loss_parts(updater=partial(HardUpdate, value_network_update_interval=200))
    assert codes(diagnose(**parts)) == [] and parts["updater"].counter == 0


class OwnTracker(Transform):
    """Write is_init without TorchRL's class."""

    def _reset(self, tensordict, tensordict_reset):
        tensordict_reset["is_init"] = torch.ones(*tensordict_reset.shape, 1, dtype=torch.bool)
        return tensordict_reset

    def _step(self, tensordict, next_tensordict):
        next_tensordict["is_init"] = torch.zeros(*next_tensordict.shape, 1, dtype=torch.bool)
        return next_tensordict

    def transform_observation_spec(self, observation_spec):
        observation_spec["is_init"] = Binary(1, shape=(1,), dtype=torch.bool)
        return observation_spec


class OwnMemory(TensorDictModuleBase):
    """A running mean of the observations."""

    in_keys = ("observation", "mean", "is_init")

    def __init__(self, write=("next", "mean")):
        super().__init__()
        self.out_keys = ["action_value", write]
        self.head = nn.Linear(2, 2)

    def forward(self, td):
        old = td.get("mean", torch.zeros_like(td["observation"])) * (~td["is_init"])
        new = old + 0.3 * (td["observation"] - old)
        return td.set("action_value", self.head(new)).set(self.out_keys[1], new)


@pytest.mark.parametrize(
    ("write", "found"),
    [(("next", "mean"), []), ("mean_new", ["out-key-without-next"]), ("mean", ["state-overwritten"])],
)
def test_parts_that_are_not_torchrls(write, found):
    policy = TensorDictSequential(OwnMemory(write), QValueModule(action_space="one-hot"))
    env = vector_env(OwnTracker(), TensorDictPrimer(mean=Unbounded(2)), tracker=False)
    assert codes(diagnose(env=env, policy=policy)) == found
