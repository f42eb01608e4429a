"""What the glossary says of TorchRL is what the installed version does."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import Compose, DoubleToFloat, GymEnv, InitTracker, SerialEnv, StepCounter, TransformedEnv
from torchrl.modules import EGreedyModule, LSTMModule, set_recurrent_mode


@pytest.fixture
def env():
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(InitTracker(), StepCounter(), DoubleToFloat()))
    env.set_seed(0)
    yield env
    env.close()


def test_tensordicts_share_their_first_dimensions():
    td = TensorDict({"a": torch.zeros(3, 2), "next": {"reward": torch.ones(3, 1)}}, batch_size=[3])
    assert torch.equal(td["next", "reward"], torch.ones(3, 1))
    assert td[1].batch_size == torch.Size([]) and td[:2]["next"].batch_size == torch.Size([2])
    assert torch.stack([td, td]).batch_size == torch.Size([2, 3])
    with pytest.raises(RuntimeError, match="batch dimension mismatch"):
        td["b"] = torch.zeros(2)


def test_a_rollout_stops_where_an_episode_ends(env):
    one = env.rollout(1_000)
    assert one["next", "done"].nonzero().tolist() == [[len(one) - 1, 0]]
    assert one["is_init"].flatten().tolist() == [True] + [False] * (len(one) - 1)
    on = env.rollout(200, break_when_any_done=False)
    assert len(on) == 200 and on["next", "done"].sum() > 1
    assert torch.equal(on["is_init"][1:], on["next", "done"][:-1])
    several = SerialEnv(2, lambda: GymEnv("CartPole-v1"))
    rows = several.rollout(1_000)
    assert rows["next", "done"][:, -1].any() and not rows["next", "done"][:, :-1].any()
    several.close()


def test_specs_and_the_transforms_that_change_them(env):
    assert env.observation_spec["is_init"].dtype == torch.bool
    assert "is_init" not in env.base_env.observation_spec.keys()
    assert env.action_spec.shape == env.full_action_spec["action"].shape
    assert list(env.full_reward_spec.keys()) == ["reward"]


def test_epsilon_falls_only_by_step(env):
    explore = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.0, annealing_num_steps=10)
    for _ in range(5):
        explore(TensorDict({"action": env.action_spec.zero()}))
    assert explore.eps.item() == 1
    explore.step(5)
    assert explore.eps.item() == pytest.approx(0.5)


@pytest.mark.parametrize("recurrent", [False, True])
def test_where_a_recurrent_module_starts(recurrent):
    """At a true ``is_init``: from zeros in sequential mode, from the stored state in recurrent mode."""
    torch.manual_seed(0)
    module = LSTMModule(input_size=2, hidden_size=3, in_key="x", out_key="y")
    state = {f"recurrent_state_{name}": torch.randn(1, 1, 1, 3) for name in "hc"}
    step = {"x": torch.randn(1, 1, 2), "is_init": torch.ones(1, 1, 1, dtype=torch.bool)}
    td = TensorDict(step | state, batch_size=[1, 1])
    h, c = (state[f"recurrent_state_{name}"][0] for name in "hc")
    start = (h, c) if recurrent else (torch.zeros_like(h), torch.zeros_like(c))
    expected = module.lstm(td["x"], start)[0]
    with set_recurrent_mode(recurrent):
        seen = module(td if recurrent else td[:, 0])["y"]
    torch.testing.assert_close(seen.flatten(), expected.flatten())
