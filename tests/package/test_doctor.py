"""The doctor: a planted bug for every code, and nothing to say about pipelines that are right."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.data import (
    Binary,
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedSliceSampler,
    RandomSampler,
    ReplayBuffer,
    SliceSampler,
    TensorDictReplayBuffer,
    Unbounded,
)
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.envs import (
    CatFrames,
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
    UnaryTransform,
)
from torchrl.envs.utils import exploration_type
from torchrl.modules import (
    MLP,
    ConvNet,
    EGreedyModule,
    LSTMModule,
    QValueModule,
    recurrent_mode,
    set_recurrent_mode,
)
from torchrl.objectives import DQNLoss, HardUpdate, SoftUpdate

from recdqn import (
    Config,
    RecurrentDQNLoss,
    diagnose,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)
from recdqn.doctor import BUGS, Finding, Report
from recdqn.envs import hide_velocities, prepare_display
from recdqn.errors import UserError

STATES = ("recurrent_state_h", "recurrent_state_c")
TRAJECTORY = ("collector", "traj_ids")


# --- pipelines that are right -------------------------------------------------------------------------


def small(preset="masked-cartpole", cell="lstm", num_envs=4, **env) -> Config:
    return Config.preset(preset).replace(
        env={"num_envs": num_envs, **env},
        policy={"cell": cell, "hidden_size": 16, "features": 16, "head": 16, "channels": (4, 4, 4)},
        replay={"capacity": 2_000, "slices": 8, "slice_len": 8},
        train={"total_frames": 512, "frames_per_batch": 64},
    )


def fill(cfg, env, policy, buffer, anneal=True):
    collector = make_collector(cfg, env, policy, buffer)
    for _ in collector:
        if anneal:
            policy[-1].step(cfg.train.frames_per_batch)
    collector.shutdown()
    return buffer


def pipeline(cfg=None, loss=RecurrentDQNLoss, anneal=True) -> dict:
    """Everything the doctor can look at, made with the package; the updater keeps the target moving."""
    cfg = cfg or small()
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    buffer = fill(cfg, env, policy, make_replay_buffer(cfg), anneal)
    loss_fn = loss(policy[:-1], action_space=env.action_spec_unbatched)
    return {
        "env": env,
        "policy": policy,
        "buffer": buffer,
        "loss": loss_fn,
        "updater": SoftUpdate(loss_fn, tau=0.1),
    }


def parts(made: dict, *names) -> dict:
    return {name: made[name] for name in names or ("env", "policy", "buffer", "loss")}


def codes(report) -> list[str]:
    return [finding.code for finding in report.findings]


def vector_env(*transforms, tracker=True):
    """One CartPole, its position and angle only."""
    own = [StepCounter(), *([InitTracker()] if tracker else []), *transforms]
    hide = UnaryTransform(in_keys=["observation"], out_keys=["observation"], fn=hide_velocities)
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(hide, *own))
    env.set_seed(0)
    return env


def network(memory=None, inputs=2, eps=1.0, exploration=True):
    """An LSTM policy from TorchRL's parts."""
    memory = memory or LSTMModule(input_size=8, hidden_size=8, in_key="embed", out_key="memory")
    spec = GymEnv("CartPole-v1").action_spec
    modules = [
        TensorDictModule(nn.Sequential(nn.Linear(inputs, 8), nn.Tanh()), ["observation"], ["embed"]),
        memory,
        TensorDictModule(nn.Linear(8, 2), [memory.out_keys[0]], ["action_value"]),
        QValueModule(spec=spec),
    ]
    if exploration:
        modules.append(EGreedyModule(spec, eps_init=eps, annealing_num_steps=100_000))
    return TensorDictSequential(*modules)


def healthy_env(policy, *transforms):
    return vector_env(policy[1].make_tensordict_primer(), *transforms)


def primer(*keys, size=8, **settings):
    return TensorDictPrimer({key: Unbounded((1, size)) for key in keys}, **settings)


def collected(env, policy, sampler=None, frames=600, exclude=(), **buffer):
    """A buffer of single steps, filled by a plain collector."""
    sampler = sampler or SliceSampler(slice_len=8, traj_key=TRAJECTORY, strict_length=False)
    made = TensorDictReplayBuffer(storage=LazyTensorStorage(2_000), sampler=sampler, batch_size=64, **buffer)
    collector = Collector(env, policy, frames_per_batch=100, total_frames=frames)
    for data in collector:
        made.extend(data.reshape(-1).exclude(*exclude))
    collector.shutdown(close_env=False)
    return made


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
    report = diagnose(**parts(pipeline(cfg)))
    pixels = cfg.env.observation == "pixels"
    assert codes(report) == []
    assert set(report.skipped) == ({"masked-leak"} if pixels else set())  # there is no vector to hide


def test_torchrls_recurrent_settings_are_healthy():
    """Collector, slices and an LSTM as TorchRL's recurrent examples set them, on vectors."""
    policy = network(LSTMModule(input_size=8, hidden_size=8, in_key="embed", out_key="embed"))
    env = healthy_env(policy)
    for sampler in (
        SliceSampler(slice_len=8, traj_key=TRAJECTORY, strict_length=False),
        SliceSampler(num_slices=8, end_key=("next", "done"), strict_length=False),
    ):
        report = diagnose(env=env, policy=policy, buffer=collected(env, policy, sampler, prefetch=3))
        assert not report.findings and not any("failed" in why for why in report.skipped.values())


def test_a_parallel_environment_is_checked_in_this_process():
    policy = network()
    env = TransformedEnv(SerialEnv(2, partial(vector_env)), policy[1].make_tensordict_primer())
    assert not diagnose(env=env, policy=policy).findings
    env = TransformedEnv(ParallelEnv(2, partial(vector_env)), policy[1].make_tensordict_primer())
    try:
        assert not diagnose(env=env, policy=policy).findings
        assert env.base_env.is_closed  # it was never started
    finally:
        env.close(raise_if_closed=False)


def classic(statistics: dict, batch_size=1):
    """The classic tutorial's pipeline: pictures, a pooled network, rows of 50 steps."""
    prepare_display()
    norm = ObservationNorm(standard_normal=True, in_keys=["pixels"])
    see = [
        ToTensorImage(),
        GrayScale(),
        Resize(84, 84),
        StepCounter(),
        InitTracker(),
        RewardScaling(0.0, 0.1),
        norm,
    ]
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
    policy = TensorDictSequential(
        features,
        memory,
        head,
        QValueModule(spec=spec),
        EGreedyModule(spec, eps_init=0.2, annealing_num_steps=1_000_000),
    )
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(20_000), batch_size=batch_size, prefetch=10)
    collector = Collector(env, policy, frames_per_batch=50, total_frames=100)
    for data in collector:
        buffer.extend(data.unsqueeze(0).to_tensordict().cpu())
        policy[-1].step(data.numel())
    collector.shutdown(close_env=False)
    loss_fn = DQNLoss(policy[:-1], action_space=spec, delay_value=True)
    loss_fn.make_value_estimator(gamma=0.99)
    return {
        "env": env,
        "policy": policy,
        "buffer": buffer,
        "loss": loss_fn,
        "updater": SoftUpdate(loss_fn, eps=0.95),
    }


def test_the_classic_tutorials_settings():
    """Its statistics and its loss are wrong, its pictures are large; the rest is right."""
    wasteful = ["pixels-float32", "pixels-twice"]
    published = classic({"reduce_dim": [0, 1, 2], "cat_dim": 0, "keep_dims": [0]})
    assert codes(diagnose(**parts(published))) == ["norm-per-column", "target-leak", *wasteful]
    right = classic({"reduce_dim": [0, 2, 3], "cat_dim": 0, "keep_dims": [2, 3]})
    assert codes(diagnose(**parts(right, "env", "policy", "buffer"))) == wasteful


# --- planted bugs: environment and policy ---------------------------------------------------------------


class Zeros(Transform):
    """Write zeros into an entry after every step, as a transform that refills its entries does."""

    def _step(self, tensordict, next_tensordict):
        for key in self.in_keys:
            next_tensordict.set(key, torch.zeros_like(next_tensordict.get(key)))
        return next_tensordict

    def _reset(self, tensordict, tensordict_reset):
        return tensordict_reset


class Keep(Transform):
    """Give a new episode the last state of the one before."""

    def _step(self, tensordict, next_tensordict):
        self.last = {key: next_tensordict.get(key).clone() for key in self.in_keys}
        return next_tensordict

    def _reset(self, tensordict, tensordict_reset):
        for key in self.in_keys:
            if hasattr(self, "last"):
                tensordict_reset.set(key, self.last[key])
        return tensordict_reset


class AlwaysRandom(nn.Module):
    """Exploration that does not ask for the exploration type."""

    def forward(self, action):
        return nn.functional.one_hot(torch.randint(2, action.shape[:-1]), 2)


def lstm_with_keys(in_keys, out_keys):
    return LSTMModule(
        input_size=8, hidden_size=8, in_keys=["embed", *in_keys], out_keys=["memory", *out_keys]
    )


def mark(fn):
    return UnaryTransform(in_keys=["is_init"], out_keys=["is_init"], fn=fn)


def no_tracker():
    policy = network()
    return {"env": vector_env(policy[1].make_tensordict_primer(), tracker=False), "policy": policy}


def never_marked():
    policy = network()
    return {"env": healthy_env(policy, mark(torch.zeros_like)), "policy": policy}


def always_marked():
    policy = network()
    return {"env": healthy_env(policy, mark(torch.ones_like)), "policy": policy}


def no_primer():
    return {"env": vector_env(), "policy": network()}


def no_primer_in_a_batch():
    return {"env": SerialEnv(2, partial(vector_env)), "policy": network()}


def primer_of_another_name():
    policy = network()
    return {"env": vector_env(primer("h", "c")), "policy": policy}


def primer_of_another_size():
    return {"env": vector_env(primer(*STATES, size=5)), "policy": network()}


def primer_of_ones():
    return {"env": vector_env(primer(*STATES, default_value=1.0)), "policy": network()}


def out_keys_without_next():
    policy = network(lstm_with_keys(["h", "c"], ["h_new", "c_new"]))
    return {"env": vector_env(primer("h", "c")), "policy": policy}


def out_keys_like_in_keys():
    policy = network(lstm_with_keys(["h", "c"], ["h", "c"]))
    return {"env": vector_env(primer("h", "c")), "policy": policy}


def refilled():
    policy = network()
    return {"env": healthy_env(policy, Zeros(in_keys=[STATES[0]])), "policy": policy}


def refilled_in_the_workers():
    policy = network()
    return {"env": SerialEnv(2, lambda: healthy_env(policy, Zeros(in_keys=[STATES[1]]))), "policy": policy}


def kept_over_resets():
    policy = network()
    return {"env": healthy_env(policy, Keep(in_keys=[STATES[0]])), "policy": policy}


def recurrent_by_default():
    memory = LSTMModule(
        input_size=8, hidden_size=8, in_key="embed", out_key="memory", default_recurrent_mode=True
    )
    policy = network(memory)
    return {"env": healthy_env(policy), "policy": policy}


def always_exploring():
    policy = network(exploration=False)
    policy = TensorDictSequential(*policy, TensorDictModule(AlwaysRandom(), ["action"], ["action"]))
    return {"env": healthy_env(policy), "policy": policy}


def constant_exploration():
    spec = GymEnv("CartPole-v1").action_spec
    return {"policy": TensorDictSequential(*network()[:-1], EGreedyModule(spec, eps_init=1.0, eps_end=1.0))}


def exploration_never_stepped():
    cfg = small().replace(policy={"eps_frames": 1_000})
    return parts(pipeline(cfg, anneal=False), "policy", "buffer")


def no_statistics():
    policy = network()
    return {"env": healthy_env(policy, ObservationNorm(in_keys=["observation"])), "policy": policy}


def picture_env(norm):
    prepare_display()
    base = GymEnv("CartPole-v1", from_pixels=True)
    return TransformedEnv(base, Compose(ToTensorImage(), GrayScale(), Resize(36), InitTracker(), norm))


def statistics_per_column():
    loc, scale = torch.linspace(0, 1, 36).reshape(1, 36), torch.ones(1, 36)
    return {"env": picture_env(ObservationNorm(loc, scale, in_keys=["pixels"], standard_normal=True))}


def statistics_per_row():
    loc, scale = torch.zeros(1, 36, 1), torch.linspace(1, 2, 36).reshape(1, 36, 1)
    return {"env": picture_env(ObservationNorm(loc, scale, in_keys=["pixels"], standard_normal=True))}


def whole_vector_left_in():
    hide = UnaryTransform(in_keys=["observation"], out_keys=["masked"], fn=hide_velocities)
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(hide, InitTracker()))
    env.set_seed(0)
    return {"env": env}


def two_frames_show_the_velocity():
    return {"env": vector_env(CatFrames(N=2, dim=-1, in_keys=["observation"]))}


def two_directions():
    memory = LSTMModule(input_size=8, hidden_size=8, in_key="embed", out_key="memory", bidirectional=True)
    batch = pipeline()["buffer"].sample()
    for name in STATES:
        batch[name] = torch.randn(*batch.shape, 2, 8)
    policy = network(exploration=False)
    head = TensorDictModule(nn.Linear(16, 2), ["memory"], ["action_value"])
    return {"policy": TensorDictSequential(policy[0], memory, head, policy[3]), "batch": batch}


# --- planted bugs: buffer, batch and loss ---------------------------------------------------------------


class AnyWindow(Sampler):
    """Eight neighbouring places in the storage, whatever is there, marked where they start."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def sample(self, storage, batch_size):
        place = torch.arange(batch_size) % 8
        return (self.first + place) % len(storage), {"is_init": (place == 0).unsqueeze(-1)}

    def _empty(self):
        pass

    state_dict = load_state_dict = dumps = loads = None


def unrelated():
    policy = network()
    env = healthy_env(policy)
    return {"policy": policy, "buffer": collected(env, policy, RandomSampler())}


def workers_side_by_side():
    """end_key trusts "done", and one environment's unfinished rows lie behind another's."""
    policy = network()
    env = TransformedEnv(SerialEnv(2, vector_env), policy[1].make_tensordict_primer())
    sampler = SliceSampler(slice_len=8, end_key=("next", "done"), strict_length=False)
    return {"policy": policy, "buffer": collected(env, policy, sampler, frames=800)}


def borrowed_environment():
    """Evaluating in the collector's own environment moves it behind the collector's back."""
    policy = network()
    env = healthy_env(policy)
    sampler = SliceSampler(slice_len=8, traj_key=TRAJECTORY, strict_length=False)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2_000), sampler=sampler, batch_size=64)
    collector = Collector(env, policy, frames_per_batch=10, total_frames=400)
    for data in collector:
        buffer.extend(data)
        env.rollout(5, policy)
    return {"env": env, "policy": policy, "buffer": buffer}


def over_the_cursor(steps=600, first=146):
    """All of one episode, in 450 places: of 600 steps, the newest is at 149, the oldest at 150."""
    times = torch.arange(steps + 1.0).unsqueeze(-1)
    never = torch.zeros(steps, 1, dtype=torch.bool)
    following = {"observation": times[1:], "done": never}
    batch = TensorDict({"observation": times[:-1], "is_init": never, "next": following}, [steps])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(450), sampler=AnyWindow(first), batch_size=64)
    buffer.extend(batch[:400])
    buffer.extend(batch[400:])
    return {"buffer": buffer}


def marks_excluded():
    policy = network()
    return {"policy": policy, "buffer": collected(healthy_env(policy), policy, exclude=["is_init"])}


def slices_not_marked():
    policy = network()
    sampler = SliceSampler(slice_len=8, traj_key=TRAJECTORY, strict_length=True, init_key=None)
    return {"policy": policy, "buffer": collected(healthy_env(policy), policy, sampler)}


def slices_of_a_plain_buffer():
    """It does not write what the sampler says into the batch, the marks included."""
    policy = network()
    sampler = SliceSampler(slice_len=8, traj_key=TRAJECTORY, strict_length=False)
    full = collected(healthy_env(policy), policy)
    buffer = ReplayBuffer(storage=LazyTensorStorage(2_000), sampler=sampler, batch_size=64)
    buffer.extend(full[:])
    return {"policy": policy, "buffer": buffer}


def slices_by_priority():
    """TorchRL 0.14.1's PrioritizedSliceSampler marks the ends of its slices and not their starts."""
    policy = network()
    sampler = PrioritizedSliceSampler(
        2_000, alpha=0.7, beta=0.9, slice_len=8, traj_key=TRAJECTORY, strict_length=False
    )
    return {"policy": policy, "buffer": collected(healthy_env(policy), policy, sampler)}


def states_excluded():
    policy = network()
    return {"policy": policy, "buffer": collected(healthy_env(policy), policy, exclude=STATES)}


def states_emptied():
    policy = network()
    empty = UnaryTransform(in_keys=[STATES[0]], out_keys=[STATES[0]], fn=torch.zeros_like)
    return {"policy": policy, "buffer": collected(healthy_env(policy), policy, transform=empty)}


def half_of_the_states():
    policy = network()
    half = UnaryTransform(in_keys=[STATES[0]], out_keys=[STATES[0]], fn=lambda h: 0.5 * h)
    return {"policy": policy, "buffer": collected(healthy_env(policy), policy, transform=half)}


def stored_over_an_end():
    policy = network()
    shift = UnaryTransform(in_keys=[STATES[0]], out_keys=[STATES[0]], fn=lambda h: h + 1)
    both = Compose(
        shift,
        UnaryTransform(in_keys=[("next", STATES[0])], out_keys=[("next", STATES[0])], fn=lambda h: h + 1),
    )
    return {"policy": policy, "buffer": collected(healthy_env(policy), policy, transform=both)}


def picture_buffer(dtype, twice):
    batch = TensorDict({"pixels": torch.zeros(20, 1, 84, 84, dtype=dtype)}, [20])
    if twice:
        batch["next", "pixels"] = batch["pixels"]
    batch["next", "done"] = batch["is_init"] = torch.zeros(20, 1, dtype=torch.bool)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), batch_size=20)
    buffer.extend(batch)
    return {"buffer": buffer}


def stock_loss(cell="lstm", double=False):
    made = pipeline(small(cell=cell), partial(DQNLoss, double_dqn=double))
    return parts(made, "buffer", "loss") | {"updater": made["updater"]}


class ByHand:
    """A loss that somebody wrote: one-step Q-learning in one pass over the batch."""

    def __init__(self, network, recurrent=True, leaky=False):
        self.network, self.recurrent, self.leaky = network, recurrent, leaky

    def __call__(self, batch):
        data = batch.select(*self.network.in_keys)
        if self.leaky:
            data["is_init"] = torch.zeros_like(data["is_init"])
        with set_recurrent_mode(self.recurrent):
            value = self.network(data)["action_value"]
        chosen = (value * batch["action"]).sum(-1)
        following = value.detach().amax(-1).roll(-1)
        last = batch["next", "done"].reshape(-1)
        target = batch["next", "reward"].reshape(-1) + torch.where(last, 0.0, 0.99 * following)
        return (chosen - target).square().mean()


def one_number_loss(**options):
    made = pipeline()
    return {"buffer": made["buffer"], "loss": ByHand(made["policy"][:-1], **options)}


def no_updater():
    made = pipeline()
    loss_fn = RecurrentDQNLoss(made["policy"][:-1], action_space="one-hot")
    return {"loss": loss_fn}


def updater_that_keeps_everything():
    loss_fn = pipeline()["loss"]
    return {"loss": loss_fn, "updater": SoftUpdate(loss_fn, eps=1.0)}


def no_target():
    made = pipeline()
    return {"loss": DQNLoss(made["policy"][:-1], action_space="one-hot", delay_value=False)}


def target_made_the_same():
    made = pipeline()
    target = made["loss"].target_value_network_params
    for key, value in made["loss"].value_network_params.items(True, True):
        target.get(key).data = value.data
    return {"loss": made["loss"], "updater": made["updater"]}


def not_a_number():
    policy = network()
    with torch.no_grad():
        policy[1].lstm.weight_ih_l0[0, 0] = torch.nan
    return {"policy": policy}


PLANTED = {
    "no-init-tracker": [no_tracker],
    "init-never-true": [never_marked],
    "init-false-start": [always_marked],
    "no-primer": [no_primer, no_primer_in_a_batch],
    "primer-mismatch": [primer_of_another_name, primer_of_another_size, primer_of_ones],
    "out-key-without-next": [out_keys_without_next],
    "state-overwritten": [out_keys_like_in_keys],
    "state-not-carried": [refilled, refilled_in_the_workers, half_of_the_states],
    "state-over-episode": [kept_over_resets, stored_over_an_end],
    "recurrent-mode-on": [recurrent_by_default],
    "exploration-frozen": [constant_exploration, exploration_never_stepped],
    "explores-in-evaluation": [always_exploring],
    "norm-uninitialised": [no_statistics],
    "norm-per-column": [statistics_per_column, statistics_per_row],
    "masked-leak": [whole_vector_left_in, two_frames_show_the_velocity],
    "sees-future": [two_directions],
    "unrelated-transitions": [unrelated],
    "slice-over-episodes": [workers_side_by_side],
    "impossible-steps": [borrowed_environment],
    "slice-over-cursor": [over_the_cursor, partial(over_the_cursor, steps=900, first=446)],
    "is-init-lost": [marks_excluded, slices_not_marked, slices_by_priority, slices_of_a_plain_buffer],
    "state-lost": [states_excluded, states_emptied],
    "pixels-float32": [partial(picture_buffer, torch.float32, twice=False)],
    "pixels-twice": [partial(picture_buffer, torch.uint8, twice=True)],
    "not-finite": [not_a_number],
    "target-leak": [
        stock_loss,
        partial(stock_loss, "gru"),
        partial(stock_loss, double=True),
        partial(one_number_loss, leaky=True),
    ],
    "recurrent-mode-off": [partial(one_number_loss, recurrent=False)],
    "target-frozen": [no_updater, updater_that_keeps_everything],
    "target-is-online": [no_target, target_made_the_same],
}
NAMED = {  # what a message must say is at fault
    "no-init-tracker": "'is_init'",
    "init-never-true": "'is_init'",
    "init-false-start": "'is_init'",
    "no-primer": "'recurrent_state_h'",
    "primer-mismatch": "'recurrent_state_h'",
    "out-key-without-next": "'h_new'",
    "state-overwritten": "'h'",
    "state-not-carried": "'recurrent_state_",
    "state-over-episode": "'recurrent_state_h'",
    "recurrent-mode-on": "the policy",
    "exploration-frozen": "EGreedyModule",
    "explores-in-evaluation": "the policy",
    "norm-uninitialised": "ObservationNorm of 'observation'",
    "norm-per-column": "ObservationNorm",
    "masked-leak": ("'observation' tells it", "'observation', and its other numbers tell it"),
    "sees-future": "last observation",
    "unrelated-transitions": "steps",
    "slice-over-episodes": "steps",
    "slice-over-cursor": "newest step",
    "impossible-steps": "'observation'",
    "is-init-lost": "'is_init'",
    "state-lost": "'recurrent_state_h'",
    "pixels-float32": "28,224 bytes",
    "pixels-twice": "('next', 'pixels')",
    "not-finite": "weight_ih_l0",
    "target-leak": ("DQNLoss", "ByHand"),
    "recurrent-mode-off": "ByHand",
    "target-frozen": "target_value_network_params",
    "target-is-online": "target_value_network_params",
}
CASES = [
    pytest.param(code, plant, id=f"{code}-{k}")
    for code, plants in PLANTED.items()
    for k, plant in enumerate(plants)
]


def test_every_bug_is_planted():
    assert PLANTED.keys() == BUGS.keys() == NAMED.keys()


@pytest.mark.parametrize(("code", "plant"), CASES)
def test_planted(code, plant):
    """The bug is found, it alone, and the message names what is at fault."""
    made = plant()
    report = diagnose(**{name: part for name, part in made.items() if name != "updater"})
    assert codes(report) == [code]
    names = NAMED[code] if isinstance(NAMED[code], tuple) else [NAMED[code]]
    (finding,) = report.findings
    assert any(name in finding.message for name in names), finding.message
    assert (finding.severity, finding.fix) == (BUGS[code].severity, BUGS[code].fix)
    assert code in report.checked and code not in report.skipped


def test_recurrent_mode_left_on_around_the_doctor():
    policy = network()
    env = healthy_env(policy)
    with set_recurrent_mode(True):
        assert codes(diagnose(env=env, policy=policy)) == ["recurrent-mode-on"]
    assert codes(diagnose(env=env, policy=policy)) == []


def test_a_hard_update_with_a_long_interval_moves():
    loss_fn = pipeline()["loss"]
    updater = HardUpdate(loss_fn, value_network_update_interval=200)
    assert codes(diagnose(loss=loss_fn)) == [] and updater.counter == 0


# --- subclasses are judged by what they do ----------------------------------------------------------------


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
    """A running mean of the observations, written by hand."""

    in_keys = ("observation", "mean", "is_init")

    def __init__(self, write=("next", "mean")):
        super().__init__()
        self.out_keys = ["action_value", write]
        self.head = nn.Linear(2, 2)

    def forward(self, td):
        old = td.get("mean") * (~td["is_init"])
        new = old + 0.3 * (td["observation"] - old)
        return td.set("action_value", self.head(new)).set(self.out_keys[1], new)


@pytest.mark.parametrize("write", [("next", "mean"), "mean_new", "mean"])
def test_parts_that_are_not_torchrls(write):
    policy = TensorDictSequential(OwnMemory(write), QValueModule(action_space="one-hot"))
    env = vector_env(OwnTracker(), TensorDictPrimer(mean=Unbounded(2)), tracker=False)
    found = {"mean_new": ["out-key-without-next"], "mean": ["state-overwritten"], ("next", "mean"): []}
    assert codes(diagnose(env=env, policy=policy)) == found[write]


# --- nothing is changed -----------------------------------------------------------------------------------


def everything(made: dict) -> list:
    """All that could be different: parameters, contents, generators, the environment's own state."""
    env, buffer = made["env"], made["buffer"]
    games = env.base_env._env.envs
    return [
        {k: v.clone() for k, v in made["policy"].state_dict().items()},
        {k: v.clone() for k, v in made["loss"].state_dict().items()},
        buffer[:].clone(),
        (buffer.write_count, len(buffer), buffer.writer._cursor, buffer.sampler.state_dict()),
        env.transform.state_dict(),
        [(game.unwrapped.state, game.unwrapped.np_random.bit_generator.state) for game in games],
        made["batch"].clone(),
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state(),
        (recurrent_mode(), exploration_type(), torch.is_grad_enabled()),
        [p.grad for p in made["loss"].parameters()],
    ]


def same(a, b) -> bool:
    if isinstance(a, TensorDict | Tensor | np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_nothing_is_changed():
    made = pipeline()
    made["batch"] = made["buffer"].sample()
    before = everything(made)
    report = diagnose(**parts(made, "env", "policy", "buffer", "batch", "loss"))
    assert len(report.checked) == len(BUGS)
    for old, new in zip(before, everything(made), strict=True):
        assert same(old, new)
    following = made["env"].rollout(5, made["policy"])  # and all of it still runs
    assert made["loss"](made["buffer"].sample())["loss"].isfinite() and len(following) == 4


def test_a_batch_of_environments_without_transforms_of_its_own():
    report = diagnose(env=SerialEnv(2, vector_env))
    assert not report.findings and "norm-per-column" in report.checked


def test_an_environment_that_draws_goes_on_drawing():
    """Its surfaces cannot be copied; the copy draws on others."""
    env = make_env(small("pixel-cartpole", num_envs=1).env)
    env.set_seed(0)
    frame = env.reset()["pixels"]
    surface = env.base_env.unwrapped.screen
    assert "norm-per-column" in diagnose(env=env).checked
    assert env.base_env.unwrapped.screen is surface
    assert env.rollout(3)["pixels"].shape == (3, *frame.shape)


def test_the_next_batch_is_the_one_it_would_have_been():
    """The sampler's generator and its cache belong to the reader."""
    batches = []
    for looked in (False, True):
        torch.manual_seed(0)
        made = pipeline()
        if looked:
            diagnose(**parts(made))
        torch.manual_seed(5)
        batches.append(made["buffer"].sample()["index"])
    assert torch.equal(*batches)


# --- the report, and what cannot be used ----------------------------------------------------------------


def test_report_in_a_terminal_and_in_a_notebook():
    report = diagnose(**parts(stock_loss(), "buffer", "loss"))
    text = str(report).splitlines()
    assert text[0] == f"1 error, 0 warnings; {len(report.checked)} of {len(BUGS)} checks ran"
    assert text[1].split()[:2] == ["error", "target-leak"] and max(map(len, text)) <= 78
    assert "Fix: " + BUGS["target-leak"].fix in " ".join(str(report).split())
    shown = report._repr_html_()
    assert "<table" in shown and ">target-leak</td>" in shown and "no env given" in shown
    assert diagnose(loss=pipeline()["loss"])._repr_html_() is None  # then the text is shown


def test_markup_in_a_message_is_shown_and_not_run():
    report = Report((Finding("no-primer", "error", "<script>", "a & b"),), ("no-primer",))
    assert "&lt;script&gt;" in report._repr_html_() and "<script>" not in report._repr_html_()


def test_errors_come_first():
    report = diagnose(**picture_buffer(torch.float32, twice=True), **no_updater())
    severities = [finding.severity for finding in report.findings]
    assert severities == ["error"] * len(report.errors) + ["warning"] * 2 and report.errors


def test_what_cannot_be_checked_says_why():
    report = diagnose(policy=network())
    assert report.skipped["target-leak"] == "no loss and no batch given"
    assert report.skipped["no-primer"] == "no env given"
    empty = diagnose(buffer=TensorDictReplayBuffer(storage=LazyTensorStorage(5), batch_size=2))
    assert empty.skipped["state-lost"] == "the buffer is empty"
    assert set(empty.skipped) | set(empty.checked) == set(BUGS)


def test_a_part_that_does_not_run_hides_no_other():
    def broken(batch):
        raise ValueError("no such key\nsecond line")

    report = diagnose(buffer=pipeline()["buffer"], loss=broken)
    assert report.skipped["target-leak"] == "running it failed with ValueError: no such key"
    assert "state-lost" in report.checked


def test_a_loss_of_one_number_that_does_not_read_the_reward():
    made = pipeline()
    value = made["policy"][:-1]
    report = diagnose(buffer=made["buffer"], loss=lambda batch: value(batch)["action_value"].mean())
    assert report.skipped["target-leak"] == "the loss gives one number, and does not read the reward"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to check: give at least one of env, policy, buffer, batch, loss"),
        ({"env": "CartPole-v1"}, "env is a str: expected EnvBase"),
        ({"policy": nn.Linear(1, 1)}, "policy is a Linear: expected TensorDictModuleBase"),
        ({"buffer": [1]}, "buffer is a list: expected ReplayBuffer"),
        ({"batch": {}}, "batch is a dict: expected TensorDictBase"),
        ({"loss": 1.0}, "loss is a float: expected something that can be called"),
    ],
)
def test_wrong_parts_are_refused(given, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        diagnose(**given)
