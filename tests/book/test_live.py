"""The agents, the physics and the pictures of the live agent, in node, against PyTorch and Gymnasium."""

import gzip
import json
import shutil
import subprocess

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from live import AGENTS, markup
from live import FOLDER as WIDGET

from recdqn import load_checkpoint
from recdqn.agent import Agent
from recdqn.book.live import FILES, FOLDER, agents, pack
from recdqn.book.player import EPISODE, PICTURES
from recdqn.book.recorded import RESULTS
from recdqn.envs import small_grey
from recdqn.evaluation import Evaluation

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
FIRST = """
const fs = require("fs");
for (const file of ["network", "cartpole", "masked", "bugs", "pixel"]) {
  (0, eval)(fs.readFileSync(`${process.argv[1]}/${file}.js`, "utf8"));
}
const { open } = recdqnAgents, { step, fallen, Picture } = recdqnCartPole;
const given = JSON.parse(fs.readFileSync(0));
"""
# From given starts, at most 500 steps each: returns their lengths.
PLAY = """
const net = open(given.name), picture = new Picture();
console.log(JSON.stringify(given.starts.map((state) => {
  net.wipe();
  for (let steps = 1; ; steps++) {
    const q = net.step(net.pixels ? picture.draw(state) : [state[0], state[2]]);
    state = step(state, q[1] > q[0]);
    if (steps === 500 || fallen(state)) return steps;
    if (given.wiped) net.wipe();
  }
})));
"""
VALUES = "const net = open(given.name); console.log(JSON.stringify(given.seen.map((x) => [...net.step(x)])));"


def node(program, **given):
    """Run a program after the site's files, with JSON in and out."""
    done = subprocess.run(
        [NODE, "-e", FIRST + program, str(FOLDER)],
        input=json.dumps(given), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def starts(count):
    return np.random.default_rng(0).uniform(-0.05, 0.05, (count, 4)).tolist()


def rounded_run(name):
    """The run of an agent with the weights that its file holds."""
    file = next(file for file, made in FILES.items() if name in made)
    folder, most = FILES[file][name]
    run = load_checkpoint(RESULTS / folder)
    pack(run.policy, run.cfg, most)
    return run


@pytest.fixture(scope="module")
def recorded():
    """The states of the recorded episode in full precision, and its pictures."""
    record = json.loads(EPISODE.read_text(encoding="utf-8"))
    size, columns = record["size"], record["columns"]
    sheet = iio.imread(PICTURES)
    places = [divmod(step, columns) for step in range(record["steps"])]
    pictures = np.stack([sheet[r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in places])
    env = gym.make("CartPole-v1")
    env.reset(seed=record["seed"])
    env.reset()
    states = []
    for action in record["actions"]:
        states.append([float(x) for x in env.unwrapped.state])
        env.step(action)
    np.testing.assert_allclose(np.array(states)[:, 0], record["position"], atol=6e-5)
    return states, pictures


@pytest.mark.parametrize("file", list(FILES))
def test_the_files_hold_the_recorded_runs(file):
    line, text = (FOLDER / f"{file}.js").read_text(encoding="utf-8").split("\n", 1)
    assert line == "// Written by: python -m recdqn.book.live"
    found = json.loads(text.removeprefix("recdqnAgents.add(").removesuffix(");\n"))
    again = json.loads(json.dumps(agents(file)))
    for name, expected in again.items():
        read, score = (found[name].pop("readout", None), found[name].pop("r2", None))
        fresh, scored = expected.pop("readout", None), expected.pop("r2", None)
        assert found[name] == expected
        if fresh is not None:
            np.testing.assert_allclose(read, fresh, atol=0.02)
            assert score == pytest.approx(scored, abs=0.01)


def test_everything_that_the_page_loads_is_small():
    files = [*FOLDER.iterdir(), WIDGET / "live.js", WIDGET / "live.css", WIDGET / "live.html"]
    assert sum(len(gzip.compress(file.read_bytes(), 9)) for file in files) < 400_000


def test_the_list_names_every_agent_with_its_file_and_its_run():
    made = {name: (file, folder) for file, found in FILES.items() for name, (folder, _) in found.items()}
    assert {name: (file, run) for name, (file, _, run) in AGENTS.items()} == made
    assert 'data-files="../live/"' in markup("../")


@needs_node
def test_the_physics_are_gymnasiums():
    env = gym.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    states = (np.random.default_rng(1).uniform(-1, 1, (200, 4)) * [2.6, 3, 0.25, 3]).tolist()
    moves = [k % 2 for k in range(200)]
    made = node(
        "console.log(JSON.stringify(given.states.map((s, k) => step(s, given.moves[k]))"
        ".map((s) => [s, fallen(s)])));",
        states=states, moves=moves,
    )  # fmt: skip
    ended = []
    for state, move, (after, fell) in zip(states, moves, made, strict=True):
        env.state, env.steps_beyond_terminated = tuple(state), None
        _, _, terminated, _, _ = env.step(move)
        np.testing.assert_allclose(after, env.state, rtol=1e-12, atol=1e-12)
        assert fell == terminated
        ended.append(terminated)
    assert 20 < sum(ended) < 180


@needs_node
@pytest.mark.parametrize("name", ["masked", "none", "leak", "primer"])
def test_q_values_of_masked_agents_are_pytorchs(name, recorded):
    states, _ = recorded
    run = rounded_run(name)
    agent = Agent(run.policy, run.cfg.env)
    state, expected = agent.initial_state(), []
    for seen in np.array(states, np.float32):
        values, state = agent.values(seen, state)
        expected.append(values)
    found = np.array(node(VALUES, name=name, seen=[[x, angle] for x, _, angle, _ in states]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert found.argmax(1).tolist() == np.argmax(expected, 1).tolist()


@needs_node
def test_q_values_of_the_pixel_agent_are_pytorchs_and_its_actions_the_recorded_ones(recorded):
    states, pictures = recorded
    run = rounded_run("pixel")
    features, memory, head = (module for module in list(run.policy)[:3])
    features.module.dtype = torch.float32
    with torch.no_grad():
        embedded = features.module(torch.from_numpy(pictures)[:, None])
        expected = head.module(memory.lstm(embedded[None])[0][0]).numpy()
    found = np.array(node(VALUES, name="pixel", seen=pictures.reshape(len(pictures), -1).tolist()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()
    actions = np.array(json.loads(EPISODE.read_text(encoding="utf-8"))["actions"])
    assert (found.argmax(1) == actions).mean() >= 0.99  # of the agent with float32 weights


@needs_node
def test_a_step_reads_each_weight_as_often_as_it_must(recorded):
    """Where a picture is white, its patches are zeros and nothing is multiplied."""
    program = """
    const net = open(given.name), counts = {};
    for (const [name, values] of Object.entries(net.weights)) {
      counts[name] = 0;
      net.weights[name] = new Proxy(values, { get: (all, key) => {
        if (typeof key === "string" && /^\\d+$/.test(key)) counts[name]++;
        const value = all[key];
        return typeof value === "function" ? value.bind(all) : value;
      } });
    }
    net.step(given.seen);
    console.log(JSON.stringify(counts));
    """
    _, pictures = recorded
    counts = node(program, name="pixel", seen=pictures[0].flatten().tolist())
    white = node(program, name="pixel", seen=[255] * 84 * 84)
    assert white["convolution_0_weight"] == 0 < counts["convolution_0_weight"] < 0.3 * 16 * 64 * 20 * 20
    assert counts["convolution_1_weight"] == 32 * 256 * 9 * 9
    assert counts["convolution_2_weight"] == 32 * 288 * 7 * 7
    assert counts["features_weight"] == 128 * 1568 and counts["state_weight"] == 256 * 64
    assert sum(counts.values()) < 1.5e6
    assert sum(node(program, name="masked", seen=[0.1, 0.02]).values()) < 40_000


@needs_node
def test_the_picture_is_gymnasiums_and_leads_to_the_same_actions(recorded):
    states, pictures = recorded
    program = """
    const picture = new Picture(), [a, b] = [open("pixel"), open("pixel")];
    const drawn = given.states.map((state) => [...picture.draw(state)]);
    const same = given.pictures.length ? given.pictures.filter((seen, k) => {
      const [p, q] = [a.step(seen), b.step(drawn[k])];
      return (p[1] > p[0]) === (q[1] > q[0]);
    }).length : 0;
    console.log(JSON.stringify([drawn, same]));
    """
    drawn, same = node(program, states=states, pictures=pictures.reshape(len(pictures), -1).tolist())
    assert same >= 0.99 * len(pictures)
    off = np.abs(np.array(drawn).reshape(pictures.shape) - pictures.astype(int))
    assert off.mean() < 0.1 and off.max() <= 16

    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    wide = (np.random.default_rng(2).uniform(-1, 1, (40, 4)) * [2.3, 0, 0.2, 0]).tolist()
    drawn, _ = node(program, states=wide, pictures=[])
    for state, picture in zip(wide, drawn, strict=True):
        env.unwrapped.state = np.array(state)
        frame = small_grey(env.render(), 84)[0].astype(int)
        off = np.abs(np.array(picture).reshape(84, 84) - frame)
        assert off.mean() < 0.1 and off[frame < 255].mean() < 3 and off.max() <= 16


@needs_node
def test_a_hundred_episodes_of_the_masked_agent_reach_the_recorded_mean():
    recorded = load_checkpoint(RESULTS / "masked-cartpole" / "seed-0").final
    lengths = node(PLAY, name="masked", starts=starts(100))
    low, high = recorded.interval or (recorded.mean, recorded.mean)
    assert low <= np.mean(lengths) <= high
    assert np.mean(node(PLAY, name="masked", starts=starts(20), wiped=True)) < 100  # without its memory


@needs_node
@pytest.mark.parametrize("name", ["none", "leak", "primer"])
def test_the_others_stand_as_long_as_recorded(name):
    run = load_checkpoint(RESULTS / AGENTS[name][2])
    returns = tuple(run.metrics[-1]["returns"])
    low, high = Evaluation(returns, tuple(map(int, returns))).interval
    # the starts differ, and an agent that hardly stands is sensitive to the rounding of its weights
    assert 0.8 * low <= np.mean(node(PLAY, name=name, starts=starts(100))) <= 1.2 * high


@needs_node
def test_the_pixel_agent_stands_in_javascript():
    assert min(node(PLAY, name="pixel", starts=starts(2))) > 400


@needs_node
@pytest.mark.long
def test_a_hundred_episodes_of_the_pixel_agent_reach_the_recorded_mean():
    low, high = load_checkpoint(RESULTS / "pixel-cartpole" / "seed-0").final.interval
    assert low <= np.mean(node(PLAY, name="pixel", starts=starts(100))) <= 500 and high < 500
