"""Exported agents read raw entries of observations as the agents do, and take legal actions only."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from exported import run_alone, stirred
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from recdqn import export_agent
from recdqn.agent import ILLEGAL, Agent
from recdqn.envs import declared_spaces
from recdqn.envs.arrays import READERS
from recdqn.export import opened
from recdqn.export.entries import Pictures

STEPS, BATCH = 6, 3


class Everything(gym.Env):
    """Shows every kind of entry, a mask among them; its episodes never end."""

    action_space = MultiDiscrete([2, 2])
    observation_space = Dict(
        arm=Dict(angles=Box(-2, 2, (2,), np.float64), grip=Discrete(3, start=-1)),
        camera=Box(0, 255, (30, 44, 3), np.uint8),
        depths=Box(0, 1, (24, 24, 2), np.float32),
        legal=MultiBinary(4),
        places=Tuple([Box(0, 4, (3, 3, 2), np.int64), Box(-1, 1, (2,), np.int8)]),
        switches=MultiDiscrete([2, 3]),
        words=gym.spaces.Text(3),
    )

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {"legal": np.ones(4, bool)}

    def step(self, action):
        return self.observation_space.sample(), 0.5, False, False, {"legal": np.ones(4, bool)}


class Numbers(Everything):
    observation_space = Dict(a=Box(-1, 1, (2,)), b=Discrete(2))


class Drawn(Everything):
    observation_space, render_mode = Box(-1, 1, (1,)), "rgb_array"

    def render(self):
        return np.zeros((40, 40, 3), np.uint8)


EVERYTHING = {
    "id": Everything, "observation": "whole", "mask": "legal", "image_size": 36, "scale": (2.0,),
    "entries": ("arm", "camera", "depths", "places", "switches"),
    "arrays": ("camera=picture", "depths=frames", "places.0=grid", "places.1=grid"),
}  # fmt: skip
HIDDEN = {"id": Numbers, "visible": (0, 3), "mask": "legal", "previous": True, "scale": (2.0,)}
STACKED = {"id": Numbers, "observation": "whole", "stack": 3, "scale": (2.0,)}
DRAWN = {"id": Drawn, "observation": "pixels", "mask": "legal", "image_size": 36}
NAMES = {
    "everything": ["arm.angles", "arm.grip", "camera", "depths", "places.0", "places.1", "switches"],
    "hidden": ["a", "b"],
}


def batches(space, count=BATCH):
    """A raw batch of a space: of each step, every entry stacked."""
    rows = [space.sample() for _ in range(count)]
    return gym.vector.utils.concatenate(space, rows, gym.vector.utils.create_empty_array(space, count))


def entry(observation, name):
    for key in name.split("."):
        observation = observation[int(key) if key.isdigit() else key]
    return np.asarray(observation)


def recorded(run, names):
    """Steps of an agent: the inputs of a file without states, and the agent's Q-values and actions."""
    cfg, rng = run.cfg.env, np.random.default_rng(0)
    agent, space = Agent(run.policy, cfg), declared_spaces(cfg)[0]
    shape = {"pixels": (1, 36, 36)}.get(cfg.observation, (cfg.stack, 4))
    state, rows, reward = agent.initial_state(BATCH), [], rng.normal(size=BATCH).astype(np.float32)
    space.seed(0)
    for k in range(STEPS):
        mask = rng.integers(2, size=(BATCH, 4)).astype(np.int8)
        mask[0] = k % 2  # all actions are illegal at the end of an episode
        mask[1] = np.arange(4) == k % 4
        if names:
            seen = batches(space)
            inputs = {f"observation.{name}": entry(seen, name) for name in names}
        else:
            drawn = rng.integers(256, size=(BATCH, *shape))
            seen = drawn.astype(np.uint8 if cfg.observation == "pixels" else np.float32)
            inputs = {"observation": seen}
        if isinstance(space, Dict) and "legal" in space.keys():
            seen["legal"], given = mask, None
        else:
            given = mask if cfg.mask != "none" else None
        values, state = agent.values(seen, state, reward, given)
        if cfg.mask != "none":
            legal = mask.astype(bool) | ~mask.any(1, keepdims=True)
            assert ((values == ILLEGAL) == ~legal).all() and (~legal).any()
            inputs["action_mask"] = mask if given is None else mask.astype(bool)
        if cfg.previous:
            inputs["reward"] = reward[:, None]
        inputs["is_init"] = np.full((BATCH, 1), k == 0)
        rows.append((inputs, values))
    return rows


@pytest.mark.parametrize(
    ("env", "names"),
    [(EVERYTHING, NAMES["everything"]), (HIDDEN, NAMES["hidden"]), (STACKED, []), (DRAWN, [])],
    ids=["everything", "hidden", "stacked", "drawn"],
)
def test_a_pt2_file_reads_what_the_agent_reads(tmp_path, env, names):
    run = stirred(env=env, policy={"cell": "gru"} if env is HIDDEN else {})
    described = export_agent(run, tmp_path / "agent.pt2")
    call = opened(tmp_path / "agent.pt2")
    outputs = [one["name"] for one in described["outputs"]]
    kept = {one["name"]: one for one in described["inputs"] if f"{one['name']}_next" in outputs}
    state = {name: np.ones((BATCH, *one["shape"]), np.float32) for name, one in kept.items()}
    for inputs, expected in recorded(run, names):
        assert {one["name"] for one in described["inputs"]} == inputs.keys() | state.keys()
        values, action, *after = call(inputs | state)
        np.testing.assert_allclose(values, expected, atol=2e-5, rtol=1e-5)
        assert action.tolist() == expected.argmax(1).tolist()
        state = dict(zip(state, after, strict=True))
    assert described["actions"]["choices"] == [2, 2]


def test_an_onnx_file_reads_raw_entries_without_pytorch(tmp_path):
    pytest.importorskip("onnxscript", reason="pip install 'recdqn[export]'")
    run = stirred(env=EVERYTHING)
    described = export_agent(run, tmp_path / "agent.onnx")
    rows = recorded(run, NAMES["everything"])
    given = {name: np.stack([inputs[name] for inputs, _ in rows]) for name in rows[0][0]}
    types = {one["name"]: (one["dtype"], one["shape"]) for one in described["inputs"]}
    sent = {name: (part.dtype.name, list(part.shape[2:])) for name, part in given.items()}
    assert sent.items() <= types.items()
    states = {name: np.ones((BATCH, 1, 8), np.float32) for name in "hc"}
    values, actions = run_alone(tmp_path, given | states)
    expected = np.stack([values for _, values in rows])
    np.testing.assert_allclose(values, expected, atol=2e-5, rtol=1e-5)
    assert actions.tolist() == expected.argmax(-1).tolist()


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((210, 160, 3), "picture"), ((3, 31, 47), "picture"), ((20, 20), "picture"), ((30, 20, 1), "picture"),
        ((4, 33, 50), "frames"), ((33, 50, 4), "frames"), ((2, 25, 40, 3), "frames"),
        ((2, 3, 25, 40), "frames"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [None, (-1.0, 2.0)])
def test_pictures_are_shrunk_bit_for_bit(shape, how, scale):
    rng = np.random.default_rng(0)
    space = Box(0, 255, shape, np.uint8) if scale is None else Box(*scale, shape, np.float32)
    given = rng.integers(256, size=(2, *shape)).astype(np.uint8)
    given = given if scale is None else rng.uniform(-1.5, 2.5, (2, *shape)).astype(np.float32)
    read = READERS[how](space, 20).read
    found = Pictures(space, how, 20)(torch.from_numpy(given)).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.stack([read(one) for one in given]))


def test_an_agent_that_sees_pictures_obeys_a_mask():
    run = stirred(env=DRAWN)
    agent = Agent(run.policy, run.cfg.env)
    picture = np.zeros((1, 36, 36), np.uint8)
    for legal in range(4):
        action, _ = agent.act(picture, agent.initial_state(), mask=np.arange(4) == legal)
        assert action.tolist() == [legal // 2, legal % 2]
