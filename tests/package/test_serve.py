"""The server: sessions by themselves, and a server process with clients of other libraries."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from recdqn import Config, make_env, make_policy, save_checkpoint
from recdqn.agent import Agent
from recdqn.errors import UserError
from recdqn.run.folder import Run
from recdqn.serve import BYTES, Refused, Sessions, serve

SMALL = {"hidden_size": 8, "features": 8, "head": 8}


def a_run():
    """A small agent with large weights, so that memory decides."""
    torch.manual_seed(0)
    cfg = Config.preset("masked-cartpole").replace(env={"num_envs": 1}, policy=SMALL)
    policy = make_policy(cfg.policy, make_env(cfg.env))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(3)
    return Run(cfg, policy)


@pytest.fixture(scope="module")
def agent():
    run = a_run()
    return Agent(run.policy, run.cfg.env)


def actions_alone(agent, observations):
    state, actions = agent.initial_state(), []
    for seen in observations:
        action, state = agent.act(np.asarray(seen, np.float32), state)
        actions.append(action)
    return actions


def observations(seed, steps=40):
    return np.random.default_rng(seed).normal(size=(steps, 4)).round(3).tolist()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_clients_that_take_turns_get_what_each_gets_alone(agent):
    sessions = Sessions(agent)
    names, seen = [sessions.begin() for _ in range(3)], [observations(k) for k in range(3)]
    found = [[sessions.step(n, {"observation": one[t]})["action"] for n, one in zip(names, seen, strict=True)]
             for t in range(40)]  # fmt: skip
    expected = [actions_alone(agent, one) for one in seen]
    assert np.transpose(found).tolist() == expected
    assert len({tuple(actions) for actions in expected}) == 3  # they differ, so a mix would show


def test_is_init_begins_an_episode_and_a_refused_message_changes_nothing(agent):
    sessions, seen = Sessions(agent), observations(0)
    name = sessions.begin()
    for one in seen:
        sessions.step(name, {"observation": one})
        with pytest.raises(Refused):
            sessions.step(name, {"observation": [1.0]})
    again = [
        sessions.step(name, {"observation": one, "is_init": k == 0})["action"] for k, one in enumerate(seen)
    ]
    assert again == actions_alone(agent, seen)


def test_sessions_expire_and_are_limited(agent):
    clock = Clock()
    sessions = Sessions(agent, seconds=10, most=2, clock=clock)
    first, second = sessions.begin(), sessions.begin()
    with pytest.raises(Refused, match="all 2 sessions are in use") as caught:
        sessions.begin()
    assert caught.value.status == 429
    clock.now = 6.0
    sessions.step(first, {"observation": [0, 0, 0, 0]})
    clock.now = 12.0  # the second was not used for 12 seconds
    with pytest.raises(Refused, match="no such session, or it has expired") as caught:
        sessions.step(second, {"observation": [0, 0, 0, 0]})
    assert caught.value.status == 404 and len(sessions) == 1
    sessions.end(first)
    assert len(sessions) == 0


def test_a_session_that_is_used_too_fast_has_to_wait(agent):
    clock = Clock()
    sessions = Sessions(agent, rate=5, clock=clock)
    name, message = sessions.begin(), {"observation": [0, 0, 0, 0]}
    for _ in range(5):
        sessions.step(name, message)
    with pytest.raises(Refused, match="more than 5 steps a second") as caught:
        sessions.step(name, message)
    assert caught.value.status == 429
    clock.now = 0.5  # half a second is two and a half steps
    sessions.step(name, message)
    sessions.step(name, message)
    with pytest.raises(Refused):
        sessions.step(name, message)


class Choosy(gym.Env):
    """Tells the legal actions in ``info``."""

    observation_space, action_space = Box(-1, 1, (2,)), Discrete(3)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {"legal": np.ones(3, bool)}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {"legal": np.ones(3, bool)}


def test_a_message_can_hold_a_mask():
    cfg = Config.preset("masked-cartpole").replace(
        env={"id": Choosy, "observation": "whole", "mask": "legal", "num_envs": 1, "scale": (1.0,)},
        policy=SMALL,
    )
    sessions = Sessions(Agent(make_policy(cfg.policy, make_env(cfg.env)), cfg.env))
    name = sessions.begin()
    for legal in range(3):
        mask = [int(k == legal) for k in range(3)]
        assert sessions.step(name, {"observation": [0, 0], "mask": mask}) == {"action": legal}
    with pytest.raises(Refused, match="no 'legal' with one number for each of 3 actions"):
        sessions.step(name, {"observation": [0, 0]})


@pytest.mark.parametrize(
    "message, line",
    [
        ([1, 2], 'expected an object like {"observation"'),
        ({}, "expected an object like"),
        ({"observation": [0] * 4, "reset": True}, "unknown entry 'reset'"),
        ({"observation": [0] * 4, "is_init": 1}, "is_init=1: expected true or false"),
        ({"observation": [0] * 4, "reward": "much"}, "reward: expected a finite number"),
        ({"observation": [0] * 4, "reward": 10**400}, "reward: expected a finite number"),
        ({"observation": [0] * 4, "mask": [2, 0]}, "mask: expected a list of zeros and ones"),
        ({"observation": [0] * 3}, r"an observation of shape \(3,\): expected \(4,\)"),
        ({"observation": [[0], [0, 0]]}, r"observation: expected Box of shape \(4,\)"),
        ({"observation": "cart"}, "observation: expected Box"),
        ({"observation": None}, "observation: expected Box"),
        ({"observation": [0, 0, 0, float("nan")]}, "a number that is not finite"),
        ({"observation": [[0] * 4] * 2}, "a state of shapes|an observation of shape"),
    ],
)
def test_bad_input_is_refused_in_one_line(agent, message, line):
    sessions = Sessions(agent)
    with pytest.raises(Refused, match=line) as caught:
        sessions.step(sessions.begin(), message)
    assert caught.value.status == 422 and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command in a process of its own: its address and the agent."""
    pytest.importorskip("uvicorn", reason="pip install 'recdqn[serve]'")
    folder = tmp_path_factory.mktemp("serve") / "run"
    run = a_run()
    save_checkpoint(folder, run)
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "from recdqn.serve import serve; import sys; serve(sys.argv[1], port=0)",
    ]
    process = subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip(), Agent(run.policy, run.cfg.env)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)
    process.stdout.close()


def call(address, path, method="GET", content=None):
    content = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
    request = urllib.request.Request(address + path, content, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_an_episode_over_http(server):
    address, agent = server
    assert address.startswith("http://127.0.0.1:")
    status, text = call(address, "/sessions", "POST")
    name = json.loads(text)["session"]
    assert status == 201
    env = gym.make("CartPole-v1")
    seen, _ = env.reset(seed=0)
    state, done, first = agent.initial_state(), False, True
    while not done:
        status, text = call(
            address, f"/sessions/{name}/step", "POST", {"observation": seen.tolist(), "is_init": first}
        )
        expected, state = agent.act(seen, state)
        assert (status, json.loads(text)) == (200, {"action": expected})
        seen, _, terminated, truncated, _ = env.step(expected)
        done, first = terminated or truncated, False
    assert call(address, f"/sessions/{name}", "DELETE")[0] == 200
    status, text = call(address, f"/sessions/{name}/step", "POST", {"observation": [0, 0, 0, 0]})
    assert status == 404 and "no such session" in json.loads(text)["error"]


def test_two_websockets_have_memories_of_their_own(server):
    from websockets.sync.client import connect

    address, agent = server
    seen = [observations(5), observations(6)]
    found = [[], []]
    with (
        connect(address.replace("http", "ws") + "/ws") as a,
        connect(address.replace("http", "ws") + "/ws") as b,
    ):
        a.send("nonsense")
        assert json.loads(a.recv())["status"] == 422
        for t in range(40):
            for k, socket in enumerate((a, b)):
                socket.send(json.dumps({"observation": seen[k][t]}))
                found[k].append(json.loads(socket.recv())["action"])
    assert found == [actions_alone(agent, one) for one in seen]


def test_what_is_wrong_gets_a_status_and_one_line(server):
    address, _ = server
    name = json.loads(call(address, "/sessions", "POST")[1])["session"]
    for content, status in (
        (b"{", 422),
        (b"[" * 100_000, 422),
        (b"1" * (BYTES + 1), 413),
        (b'{"observation": [1]}', 422),
    ):
        found, text = call(address, f"/sessions/{name}/step", "POST", content)
        assert found == status and "\n" not in json.loads(text)["error"]
    assert call(address, "/nothing")[0] == 404 and call(address, "/sessions")[0] == 405


def test_it_describes_itself(server):
    address, _ = server
    status, text = call(address, "/health")
    assert status == 200 and json.loads(text)["environment"] == "CartPole-v1"
    described = json.loads(call(address, "/openapi.json")[1])
    assert described["openapi"].startswith("3.") and "/sessions/{name}/step" in described["paths"]
    page = call(address, "/docs")[1].decode()
    assert "<script" not in page and "/sessions/{name}/step" in page


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server):
    address, _ = server
    begun = subprocess.run(
        ["curl", "-s", "-X", "POST", f"{address}/sessions"], capture_output=True, check=True
    )
    name = json.loads(begun.stdout)["session"]
    message = '{"observation": [0, 0, 0.1, 0], "is_init": true}'
    step = ["curl", "-s", "-d", message, f"{address}/sessions/{name}/step"]
    assert json.loads(subprocess.run(step, capture_output=True, check=True).stdout)["action"] in (0, 1)


def test_a_port_in_use_is_refused_in_one_line(server, tmp_path):
    address, _ = server
    save_checkpoint(tmp_path, a_run())
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port}: .*another --host or --port"):
        serve(tmp_path, port=port)
