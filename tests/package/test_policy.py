"""The policy: memory against torch.nn by hand, keys and specs, actions and exploration."""

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.envs import TensorDictPrimer
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import EGreedyModule, GRUModule, LSTMModule
from torchrl.modules.models import DuelingMlpDQNet

from recdqn import Config, add_primers, make_env, make_policy
from recdqn.config import PolicyConfig
from recdqn.errors import UserError
from recdqn.policy import PixelEncoder, has_bfloat16, ladder
from recdqn.policy.encoders import inverted_patches

STATES = {"lstm": ["recurrent_state_h", "recurrent_state_c"], "gru": ["recurrent_state"]}
RECORDED = Path(__file__).parents[2] / "results" / "pixel-cartpole" / "seed-0"
each_cell = pytest.mark.parametrize("cell", STATES)
each_kind = pytest.mark.parametrize(
    ("observation", "num_envs", "cell"), [("masked", 1, "lstm"), ("masked", 3, "gru"), ("pixels", 3, "lstm")]
)


def build(observation="masked", num_envs=3, **policy):
    """A small environment and policy: their sizes differ, so that a mixed-up shape shows."""
    torch.manual_seed(0)
    cfg = Config.preset("pixel-cartpole" if observation == "pixels" else "masked-cartpole")
    sizes = {"hidden_size": 12, "features": 10, "head": 7}
    convolutions = {"channels": (16, 32, 32), "kernels": (2, 4, 3), "strides": (1, 2, 1)}
    cfg = cfg.replace(env={"num_envs": num_envs}, policy={**sizes, **convolutions, **policy})
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    return add_primers(env, policy), policy


@pytest.fixture
def make():
    """``build``, closing its environments afterwards."""
    envs = []

    def make(*args, **kwargs):
        env, policy = build(*args, **kwargs)
        envs.append(env)
        return env, policy

    yield make
    for env in envs:
        env.close()


def batch(num_envs):
    return [] if num_envs == 1 else [num_envs]


def remember_by_hand(policy, data):
    """The memory and state after every step of ``data`` ``[envs, time]``: a loop over torch.nn's cells."""
    rnn = policy[1].lstm if isinstance(policy[1], LSTMModule) else policy[1].gru
    two = isinstance(rnn, nn.LSTM)
    state = [torch.zeros(1, len(data), rnn.hidden_size) for _ in range(1 + two)]
    outputs, states = [], []
    for step in data.unbind(1):
        state = [torch.where(step["is_init"], 0.0, s) for s in state]
        output, new = rnn(step["embed"].unsqueeze(1), tuple(state) if two else state[0])
        state = list(new) if two else [new]
        outputs.append(output[:, 0])
        states.append([s.transpose(0, 1) for s in state])
    return torch.stack(outputs, 1), [torch.stack(s, 1) for s in zip(*states, strict=True)]


@torch.no_grad()
@each_kind
def test_a_rollout_equals_a_loop_over_the_cell(make, observation, num_envs, cell):
    """State carried from step to step, zero at each first step of an episode, over several episodes."""
    env, policy = make(observation, num_envs, cell=cell)
    steps = 60 if observation == "masked" else 25
    data = env.rollout(steps, policy, break_when_any_done=False)
    assert data.shape == (*batch(num_envs), steps)
    data = data.reshape(-1, steps)
    assert data["is_init"].sum() > len(data)  # at least one episode ended

    memory, states = remember_by_hand(policy, data)
    torch.testing.assert_close(data["memory"], memory, atol=1e-5, rtol=0)
    for key, by_hand in zip(STATES[cell], states, strict=True):
        torch.testing.assert_close(data["next", key], by_hand, atol=1e-5, rtol=0)
        carried = ~data["is_init"][:, 1:, 0]
        torch.testing.assert_close(data[key][:, 1:][carried], by_hand[:, :-1][carried], atol=1e-5, rtol=0)
        assert (data[key][data["is_init"].squeeze(-1)] == 0).all()
    head = policy[2].module
    torch.testing.assert_close(data["action_value"], head(memory), atol=1e-5, rtol=0)


@torch.no_grad()
@each_cell
def test_is_init_zeroes_whatever_state_comes_in(make, cell):
    env, policy = make(cell=cell)
    start = env.reset()
    dirty = start.clone()
    for key in STATES[cell]:
        dirty[key] = torch.randn_like(dirty[key])
    assert torch.equal(policy(start)["action_value"], policy(dirty.clone())["action_value"])
    dirty["is_init"] = torch.zeros_like(dirty["is_init"])
    assert not torch.allclose(policy(dirty)["action_value"], start["action_value"], atol=1e-4)


@each_kind
def test_the_primer_fits_the_module(make, observation, num_envs, cell):
    env, policy = make(observation, num_envs, cell=cell)
    primers = [t for t in env.transform if isinstance(t, TensorDictPrimer)]
    assert len(primers) == 1
    shape = (*batch(num_envs), 1, 12)
    start, fake = env.reset(), env.fake_tensordict()
    for key in STATES[cell]:
        assert env.observation_spec[key].shape == env.state_spec[key].shape == shape
        assert env.observation_spec[key].dtype == torch.float32
        assert start[key].shape == fake["next", key].shape == shape
        assert not start[key].any()
    module = policy[1]
    assert type(module) is {"lstm": LSTMModule, "gru": GRUModule}[cell]
    assert module.in_keys == ["embed", *STATES[cell], "is_init"]
    assert module.out_keys == ["memory", *[("next", key) for key in STATES[cell]]]
    with torch.no_grad():
        out = policy(start)
    assert all(env.observation_spec[key].is_in(out["next", key]) for key in STATES[cell])


def test_without_the_primer_no_call_sees_a_state(make):
    """With the primer, every call except the first of an episode sees one."""
    _, policy = make(num_envs=1)
    bare = make_env(Config.preset("masked-cartpole").replace(env={"num_envs": 1}).env)
    seen = []
    hook = policy[1].register_forward_pre_hook(
        lambda module, args: seen.append(bool(args[0].get("recurrent_state_h", torch.zeros(1)).any()))
    )
    bare.rollout(60, policy, break_when_any_done=False)
    assert seen == [False] * 60
    seen.clear()
    bare.append_transform(policy[1].make_tensordict_primer())
    data = bare.rollout(60, policy, break_when_any_done=False)
    hook.remove()
    assert seen == (~data["is_init"].squeeze(-1)).tolist()
    bare.close()


@torch.no_grad()
@each_kind
def test_keys_and_shapes(make, observation, num_envs, cell):
    env, policy = make(observation, num_envs, cell=cell)
    key = "pixels" if observation == "pixels" else "observation"
    assert policy.in_keys == [key, *STATES[cell], "is_init"]
    out = policy(env.reset())
    shapes = {"embed": 10, "memory": 12, "action_value": 2, "action": 2, "chosen_action_value": 1}
    for name, size in shapes.items():
        assert out[name].shape == (*batch(num_envs), size), name
    assert env.action_spec.is_in(out["action"])


@torch.no_grad()
@pytest.mark.parametrize("observation", ["masked", "pixels"])
def test_without_a_cell_values_depend_on_the_current_observation_alone(make, observation):
    env, policy = make(observation, cell="none")
    key = "pixels" if observation == "pixels" else "observation"
    assert policy.in_keys == [key] and "recurrent_state_h" not in env.observation_spec.keys()
    data = env.rollout(20, policy, break_when_any_done=False)
    frames = data[key].flatten(0, 1)
    by_hand = policy[1].module(policy[0].module(frames))  # features and head, without order or batch
    torch.testing.assert_close(data["action_value"].flatten(0, 1), by_hand, atol=1e-5, rtol=0)
    assert policy[1].module[0].in_features == 10  # the features; hidden_size=12 belongs to the cell


@torch.no_grad()
def test_flattened_features_tell_positions_apart(make):
    _, policy = make("pixels", 1)
    pictures = torch.full((3, 1, 84, 84), 255, dtype=torch.uint8)
    pictures[0, :, 30:60, 10:13] = 0
    pictures[1, :, 30:60, 60:63] = 0
    left, right, empty = policy[0].module(pictures)
    assert (left - right).norm() > 0.5 * (left - empty).norm()


@torch.no_grad()
@pytest.mark.parametrize("weights", ["new", "recorded"])
def test_the_encoder_is_a_plain_convolutional_network(weights):
    """4 x 4 patches as channels and a 2 x 2 kernel are an 8 x 8 kernel of stride 4, for saved weights too."""
    cfg = Config.preset("pixel-cartpole").policy if weights == "recorded" else PolicyConfig()
    encoder = PixelEncoder(Config().replace(policy={**vars(cfg), "bfloat16": False}).policy)
    pixels = torch.randint(256, (5, 3, 1, 84, 84), dtype=torch.uint8)
    encoder(pixels)
    if weights == "recorded":
        saved, prefix = torch.load(RECORDED / "policy.pt", weights_only=True), "module.0.module."
        encoder.load_state_dict({k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)})
    first, _, second, _, third = list(encoder.convolutions)[:5]
    x = (255 - pixels.float().flatten(0, 1)) * (cfg.contrast / 255)
    kernel = first.weight.reshape(-1, 4, 4, 2, 2)  # [output, y in patch, x in patch, y, x of patch]
    kernel = kernel.permute(0, 3, 1, 4, 2).reshape(-1, 1, 8, 8)
    x = nn.functional.conv2d(x, kernel, first.bias, stride=4).relu()
    x = nn.functional.conv2d(x, second.weight, second.bias, stride=2).relu()
    x = nn.functional.conv2d(x, third.weight, third.bias).relu()
    assert x.shape[1:] == (32, 7, 7)
    norm = encoder.normalise
    x = nn.functional.layer_norm(encoder.features(x.flatten(1)), norm.bias.shape, norm.weight, norm.bias)
    torch.testing.assert_close(encoder(pixels), x.relu().unflatten(0, (5, 3)), atol=1e-5, rtol=1e-5)


def test_patches_are_those_of_pixel_unshuffle():
    images = torch.randint(256, (5, 8, 12), dtype=torch.uint8)
    expected = nn.functional.pixel_unshuffle(255 - images[:, None], 4)
    assert torch.equal(inverted_patches(images), expected)
    assert inverted_patches(images).is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.skipif(not has_bfloat16(), reason="this processor computes in float32 only")
def test_bfloat16_stays_close_to_float32(make):
    env, policy = make("pixels", 3, bfloat16=False)
    pictures = env.rollout(20, break_when_any_done=False)["pixels"]
    exact, fast = policy[0].module, make("pixels", 3, bfloat16=True)[1][0].module
    fast.load_state_dict(exact.state_dict())
    exact, fast = exact(pictures), fast(pictures)
    assert fast.dtype == torch.float32 and not torch.equal(fast, exact)
    assert (fast - exact).abs().max() < 0.05 * exact.std()


def test_pictures_that_cannot_be_divided_into_patches_are_refused():
    with pytest.raises(UserError, match="^a picture of 50x50 pixels: expected multiples of 4"):
        PixelEncoder(PolicyConfig())(torch.zeros(1, 50, 50, dtype=torch.uint8))


@each_kind
def test_nothing_lazy_is_left(make, observation, num_envs, cell):
    _, policy = make(observation, num_envs, cell=cell)
    assert not any(isinstance(p, nn.parameter.UninitializedParameter) for p in policy.parameters())
    assert not any("Lazy" in type(m).__name__ for m in policy.modules())
    gates = {"lstm": 4, "gru": 3}[cell]
    # 84 -> 21 patches -> 20 -> (20 - 4) / 2 + 1 = 9 -> 9 - 3 + 1 = 7: 32 maps of 7 x 7
    convolutions = (16 * 64 + 16) + (32 * 16 * 16 + 32) + (32 * 32 * 9 + 32)
    pixels = convolutions + 10 * (32 * 7 * 7) + 10 + 2 * 10
    features = pixels if observation == "pixels" else 10 * 2 + 10
    memory = gates * 12 * (10 + 12 + 2)  # input and hidden weights, two biases
    head = (12 * 7 + 7) + (7 * 2 + 2)
    assert sum(p.numel() for p in policy.parameters()) == features + memory + head


@torch.no_grad()
def test_values_start_near_the_last_bias(make):
    value = -2.5
    env, policy = make(initial_value=value)
    assert policy[2].module[-1].bias.tolist() == [value, value]
    values = env.rollout(10, policy, break_when_any_done=False)["action_value"]
    assert (values - value).abs().max() < 0.6
    policy[2].module[-1].weight.zero_()
    assert (policy(env.reset())["action_value"] == value).all()


@torch.no_grad()
def test_a_dueling_head_is_the_one_of_torchrl(make):
    """With the same two networks; and values start near the initial one."""
    env, policy = make(dueling=True, initial_value=-2.5)
    steps = env.rollout(10, policy, break_when_any_done=False)
    values, head = steps["action_value"], policy[2].module
    assert (values - -2.5).abs().max() < 1.0
    theirs = DuelingMlpDQNet(2)
    theirs.features, theirs.value, theirs.advantage = nn.Identity(), head.value, head.advantage
    torch.testing.assert_close(values, theirs(steps["memory"]))
    assert head.value[0].out_features == head.advantage[0].out_features == 7  # the size of "head"
    head.value[-1].weight.zero_()
    torch.testing.assert_close(policy(env.reset())["action_value"].mean(-1), torch.full((3,), -2.5))


@torch.no_grad()
def test_the_preset_starts_at_the_value_of_never_falling():
    cfg = Config.preset("masked-cartpole")
    constant = cfg.env.reward_scale / (1 - cfg.loss.gamma)
    assert cfg.policy.initial_value == pytest.approx(constant)


@torch.no_grad()
@each_kind
def test_greedy_actions_are_the_best_ones(make, observation, num_envs, cell):
    env, policy = make(observation, num_envs, cell=cell)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        data = env.rollout(8, policy, break_when_any_done=False)
        again = policy[:-1](data[..., 0].clone())
    assert torch.equal(data["action"].sum(-1), torch.ones(data.shape, dtype=torch.int64))
    assert torch.equal(data["action"].argmax(-1), data["action_value"].argmax(-1))
    assert torch.equal(data["chosen_action_value"].squeeze(-1), data["action_value"].amax(-1))
    assert torch.equal(again["action"], data["action"][..., 0, :])


def actions(policy, env, copies=4_000):
    """Frequency of each action of ``policy`` in one state, over many draws, and the greedy action."""
    start = env.reset()
    start = start[0] if start.shape else start
    out = policy(start.expand(copies).clone())
    return out["action"].float().mean(0), out["action_value"][0].argmax().item()


@torch.no_grad()
def test_epsilon_is_the_share_of_random_actions(make):
    env, policy = make(eps_start=1.0)
    share, _ = actions(policy, env)
    torch.testing.assert_close(share, torch.full((2,), 0.5), atol=0.03, rtol=0)  # about 4 standard errors

    policy[-1].eps.fill_(0.2)
    share, greedy = actions(policy, env)
    assert share[greedy].item() == pytest.approx(0.9, abs=0.02)  # 0.8 and half of 0.2

    policy[-1].eps.fill_(0.0)
    share, greedy = actions(policy, env)
    assert share[greedy] == 1.0


@torch.no_grad()
def test_exploration_is_a_context_and_not_a_mode(make):
    env, policy = make()
    for kind in (ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN):
        with set_exploration_type(kind):
            share, greedy = actions(policy, env)
        assert share[greedy] == 1.0, kind
    for explore in (policy, policy.eval()):
        assert actions(explore, env)[0].max() < 0.6
    with set_exploration_type(ExplorationType.RANDOM):
        assert actions(policy, env)[0].max() < 0.6


def test_each_environment_draws_for_itself(make):
    env, policy = make()
    data = env.rollout(40, policy, break_when_any_done=False)
    left = data["action"][..., 0]
    assert not (left[0] == left[1]).all() and not (left[1] == left[2]).all()


def test_epsilon_falls_linearly_with_step(make):
    env, policy = make(eps_start=0.9, eps_end=0.1, eps_frames=400)
    module = policy[-1]
    assert isinstance(module, EGreedyModule)
    env.rollout(20, policy, break_when_any_done=False)
    assert module.eps.item() == pytest.approx(0.9)  # acting does not move it
    for frames in range(0, 640, 32):
        assert module.eps.item() == pytest.approx(max(0.1, 0.9 - 0.8 * frames / 400), abs=1e-4)
        module.step(32)
    assert module.eps.item() == pytest.approx(0.1)


def test_epsilon_defaults_of_the_library():
    """The final value is 0.1, not 0, after 1,000 steps."""
    module = EGreedyModule(make_env(Config().env).action_spec_unbatched)
    assert (module.eps_init.item(), module.annealing_num_steps) == (1.0, 1000)
    assert module.eps_end.item() == pytest.approx(0.1)
    module.step(5_000)
    assert module.eps.item() == pytest.approx(0.1)


@each_cell
def test_the_value_network_is_a_view_of_the_policy(make, cell):
    env, policy = make(cell=cell)
    network = policy[:-1]
    assert [a is b for a, b in zip(network.parameters(), policy.parameters(), strict=True)] == [True] * len(
        list(policy.parameters())
    )
    start = env.reset()
    with torch.no_grad():
        before = policy(start.clone())["action_value"]
        network[2].module[-1].bias += 3.0
        torch.testing.assert_close(policy(start.clone())["action_value"], before + 3.0)
    loss = network(start)["action_value"].sum()
    loss.backward()
    assert all(p.grad is not None for p in policy.parameters())


@torch.no_grad()
@each_kind
def test_a_state_dict_brings_back_weights_and_epsilon(make, observation, num_envs, cell):
    env, policy = make(observation, num_envs, cell=cell)
    policy[-1].step(1_000)
    torch.manual_seed(7)
    _, other = make(observation, num_envs, cell=cell, initial_value=5.0)
    for parameter in other.parameters():
        parameter += 0.1
    assert not torch.equal(other(env.reset())["action_value"], policy(env.reset())["action_value"])
    other.load_state_dict(policy.state_dict())
    assert other[-1].eps.item() == policy[-1].eps.item() < 1.0
    start = env.reset()
    assert torch.equal(other(start.clone())["action_value"], policy(start.clone())["action_value"])


def test_a_policy_fits_any_number_of_environments(make):
    """One policy, built with three environments, evaluated with one."""
    _, policy = make(num_envs=3)
    alone, _ = make(num_envs=1)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        data = alone.rollout(10, policy)
    assert data["memory"].shape[-1] == 12 and data.ndim == 1


def test_a_missing_is_init_is_an_error(make):
    env, policy = make()
    with pytest.raises(KeyError, match="is_init"):
        policy(env.reset().exclude("is_init"))


def test_a_missing_state_counts_as_zeros(make):
    """Why the missing primer goes unnoticed."""
    env, policy = make()
    start = env.reset()
    bare = TensorDict({k: start[k] for k in ("observation", "is_init")}, batch_size=start.shape)
    with torch.no_grad():
        assert torch.equal(policy(bare)["action_value"], policy(start)["action_value"])


def test_the_ladder_is_that_of_ape_x():
    """Horgan et al. 2018: actor i of N has 0.4 to the power of 1 + 7 i / (N - 1)."""
    torch.testing.assert_close(ladder(8), torch.tensor([0.4 ** (1 + i) for i in range(8)]))
    assert ladder(1).tolist() == [pytest.approx(0.4)]
