"""Environments of all kinds: each is trained in and evaluated, or ends with exactly one line."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from tensordict.nn import TensorDictModule

from recdqn import Config, evaluate, make_env, make_policy, train
from recdqn.config import EnvConfig
from recdqn.envs import ResizedPixels
from recdqn.envs.checked import WrongObservation
from recdqn.envs.processes import Workers
from recdqn.errors import ConfigError, UserError
from recdqn.film import film

LIMIT = 30  # environment steps
PLAIN = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "reward_scale": 1.0, "max_steps": LIMIT}
GENEROUS = 120  # seconds, for what should take one

VECTORS = [
    zoo.Walk,
    zoo.EndsAtOnce,
    zoo.NeverEnds,
    zoo.LimitOfOne,
    zoo.Doubles,
    zoo.Ints,
    zoo.Bytes,
    zoo.DoublesForFloats,
    zoo.CountsFromOne,
    zoo.OneAction,
    zoo.NumpyEnds,
    zoo.RaisesInClose,
]
PICTURES = [zoo.Picture, zoo.GreyPicture, zoo.FlatPicture]
WORKERS = pytest.mark.parametrize("workers", [False, True], ids=["here", "workers"])


def config(kind, num_envs=3, **values):
    return EnvConfig(**{"id": kind, "num_envs": num_envs, **PLAIN, **values})


@pytest.fixture
def small(tiny) -> Config:
    return tiny.replace(
        env={**PLAIN, "num_envs": 4, "step_seconds": float(GENEROUS)},
        train={"total_frames": 256, "warmup_frames": 128, "frames_per_batch": 32, "eval_every": 2},
        policy={"channels": (4, 4, 4)},
    )


def numbers(run):
    """What repeats exactly: every metric but the time, and the weights."""
    metrics = [{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics]
    return metrics, [p.tolist() for p in run.policy.state_dict().values()]


def replay(kind, row, seed):
    """What ``kind`` itself returns for the actions of ``row``: lists with an entry for each step."""
    env = kind()
    start = int(env.action_space.start)
    env.reset(seed=seed)  # set_seed resets once, and the rollout resets again without a seed
    first, steps, count = env.reset()[0], [], 0
    for action in row["action"].argmax(-1).tolist():
        seen, reward, terminated, truncated, _ = env.step(action + start)
        count += 1
        truncated = truncated or count == LIMIT
        steps.append((first, seen, reward, bool(terminated), bool(truncated)))
        first = seen
        if terminated or truncated:
            first, count = env.reset()[0], 0
    return map(list, zip(*steps, strict=True))


@pytest.mark.parametrize(("num_envs", "workers"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("kind", VECTORS, ids=lambda kind: kind.__name__)
def test_what_is_seen_is_what_the_environment_returns(kind, num_envs, workers):
    env = make_env(config(kind, num_envs, workers=workers))
    env.set_seed(5)
    data = env.rollout(2 * LIMIT + 3, break_when_any_done=False).reshape(num_envs, -1)
    env.close()
    assert data["observation"].dtype == torch.float32
    for i, row in enumerate(data):
        first, seen, reward, terminated, truncated = replay(kind, row, 5 + i)
        np.testing.assert_array_equal(row["observation"], np.array(first, dtype=np.float32))
        np.testing.assert_array_equal(row["next", "observation"], np.array(seen, dtype=np.float32))
        np.testing.assert_allclose(row["next", "reward"][:, 0], reward, rtol=1e-6)
        assert row["next", "terminated"][:, 0].tolist() == terminated
        assert row["next", "truncated"][:, 0].tolist() == truncated
        assert any(terminated) or any(truncated)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("kind", PICTURES, ids=lambda kind: kind.__name__)
def test_pictures_show_the_bar_where_it_is(kind, num_envs):
    env = make_env(config(kind, num_envs, image_size=60))
    env.set_seed(5)
    data = env.rollout(20, break_when_any_done=False).reshape(num_envs, 20)
    assert data["pixels"].shape == (num_envs, 20, 1, 60, 60) and data["pixels"].dtype == torch.uint8
    level = 0.299 * 255 + 0.587 * 128 if kind is zoo.Picture else 200
    for i, row in enumerate(data):
        first, *_ = replay(kind, row, 5 + i)
        for small, picture in zip(row["pixels"].numpy(), first, strict=True):
            bar = np.flatnonzero(picture.reshape(60, 80, -1)[0, :, 0])
            columns = small[0].mean(0)
            assert columns.mean() == pytest.approx(level * 10 / 80, abs=1)
            centre = (columns * (np.arange(60) + 0.5)).sum() / columns.sum()
            assert centre == pytest.approx((bar.mean() + 0.5) * 60 / 80, abs=0.2)


class Frame(gym.Env):
    """Shows one picture."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, frame):
        self.frame = frame
        self.observation_space = gym.spaces.Box(0, 255, frame.shape, np.uint8)

    def reset(self, seed=None, options=None):
        return self.frame, {}


@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.lists(st.integers(0, 255), max_size=3).filter(lambda colour: len(colour) != 2),
    st.integers(4, 100),
)
def test_a_picture_of_one_colour_stays_one(shape, colour, size):
    frame = np.full((*shape, *([len(colour)] if colour else [])), colour or 77, dtype=np.uint8)
    seen = ResizedPixels(Frame(frame), size).reset()[0]["pixels"]
    assert seen.shape == (1, size, size) and seen.dtype == np.uint8
    grey = np.dot([0.299, 0.587, 0.114], colour) if len(colour) == 3 else (colour or [77])[0]
    assert np.abs(seen - grey).max() <= 1


@pytest.mark.parametrize("kind", VECTORS + PICTURES, ids=lambda kind: kind.__name__)
def test_training_and_evaluation(kind, small):
    length = {zoo.EndsAtOnce: 1, zoo.LimitOfOne: 1, zoo.NeverEnds: LIMIT}.get(kind, 12)
    run = train(small.replace(env={"id": kind}), progress=False)
    assert run.metrics[-1]["updates"] == 5 * 2  # from 128 frames on, after each of 32, up to 256
    assert np.isfinite(run.metrics[-1]["loss"]) and run.metrics[-1]["grad_norm"] > 0
    result = evaluate(run.policy, run.cfg.env, episodes=3)
    assert result.lengths == (length,) * 3
    assert evaluate(run.policy, run.cfg.env, episodes=3) == result


def test_returns_of_one_action_are_those_of_a_loop(small):
    """Nothing can be chosen, so every policy walks to the left."""
    cfg = small.env.__class__(**{**vars(small.env), "id": zoo.OneAction, "reward_scale": 0.5})
    result = evaluate(make_policy(small.policy, make_env(cfg)), cfg, episodes=2)
    for i in range(2):
        env = zoo.OneAction()
        env.reset(seed=1_000_000 + i)
        env.reset()
        assert result.returns[i] == pytest.approx(sum(env.step(0)[1] for _ in range(12)), abs=2e-3)


@pytest.mark.parametrize("kind", [zoo.Walk, zoo.Picture], ids=lambda kind: kind.__name__)
def test_workers_train_bit_for_bit_as_one_process_does(kind, small):
    cfg = small.replace(env={"id": kind})
    assert numbers(train(cfg.replace(env={"workers": True}), progress=False)) == numbers(
        train(cfg, progress=False)
    )
    assert multiprocessing.active_children() == []


REFUSED = {
    zoo.DictSeen: r"observations Dict\('place': Box.*\): expected a Box, a vector .*, or a picture .* wrap",
    zoo.DiscreteSeen: r"observations Discrete\(16\): expected a Box.*FlattenObservation",
    zoo.Matrix: r"observations Box\(.*\(2, 2\), float32\): expected a Box",
    zoo.NoNumbers: r"observations Box\(.*\(0,\), float32\): expected a Box",
    zoo.NoSpace: r"observations None: expected a Box",
    zoo.Continuous: r"actions Box\(.*\): expected Discrete; wrap it first, .*DiscretizeAction",
    zoo.ManyActions: r"actions MultiDiscrete\(\[2 3\]\): expected Discrete",
    zoo.explodes: r"cannot be made: ValueError: no; expected one of Gymnasium's ids, or",
    zoo.makes_nothing: r"makes a NoneType: expected a gymnasium.Env",
    zoo.nan_bounds: r"cannot be made: ValueError: .*nan",
    zoo.differs: r"makes environments that differ",
}


@WORKERS
@pytest.mark.parametrize("kind", list(REFUSED), ids=lambda kind: kind.__name__)
def test_what_cannot_be_used_is_refused_in_one_line(kind, workers, small):
    with pytest.raises(ConfigError, match=f"^env.id='zoo:{kind.__name__}' (has )?{REFUSED[kind]}") as caught:
        train(small.replace(env={"id": kind, "workers": workers}), progress=False)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"id": "Nothing-v0"},
            "^env.id='Nothing-v0' cannot be made: NameNotFound: .*expected one of Gymnasium's ids",
        ),
        ({"id": "CartPole-v7"}, "^env.id='CartPole-v7' cannot be made: VersionNotFound"),
        ({"id": "not an id"}, "^env.id='not an id' cannot be made: Error: Malformed"),
        (
            {"id": "no_such_module:Env-v0"},
            "cannot be made: there is no module 'no_such_module' here",
        ),
        (
            {"id": "no_such_module:make"},
            "cannot be made: there is no module 'no_such_module' here",
        ),
        ({"id": "zoo:no_such_function"}, "cannot be made: NameNotFound: .*'module:function'"),
        ({"id": "zoo:not_a_function"}, "cannot be made: NameNotFound: .*'module:function'"),
        ({"id": zoo.Walk, "loc": (0.0,) * 3}, r"^env.loc=\(0.0, 0.0, 0.0\): expected 1 or 2 numbers"),
        ({"id": zoo.Ints, "scale": (2.0, 20.0)}, r"^env.scale=\(2.0, 20.0\): expected 1 or 3 numbers"),
        (
            {"id": zoo.Picture, "observation": "masked"},
            "a Box, a vector of numbers for observation='masked'; wrap",
        ),
        (
            {"id": zoo.Ints, "observation": "masked", "visible": (0, 3)},
            r"^env.visible=\(0, 3\): expected some of 0 to 2",
        ),
        (
            {"id": zoo.Walk, "observation": "pixels"},
            "^env.observation='pixels': zoo:Walk does not draw, .* 'rgb_array'",
        ),
        ({"id": "Blackjack-v1"}, r"^env.id='Blackjack-v1' has observations Tuple\(.*\): expected a Box"),
        ({"id": "Pendulum-v1"}, r"^env.id='Pendulum-v1' has actions Box\(.*\): expected Discrete"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_env(EnvConfig(**{**PLAIN, "num_envs": 2, **values}))
    assert "\n" not in str(caught.value)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)  # as if it were not installed
    with pytest.raises(
        ConfigError, match="^env.id='LunarLander-v3' cannot be made: DependencyNotInstalled: .*pip install"
    ):
        make_env(EnvConfig(**PLAIN, id="LunarLander-v3"))


FAILS = {
    zoo.RaisesInStep: (
        ValueError,
        "step raised ValueError: off the map: second line, 100% sure; .*check_env",
    ),
    zoo.RaisesUnpicklable: (zoo.Unpicklable, r"step raised Unpicklable: \(3, 'lost'\)"),
    zoo.RaisesInReset: (KeyError, "reset raised KeyError: 'map'"),
    zoo.Exits: (SystemExit, "step raised SystemExit: 3"),
    zoo.OldStep: (ValueError, r"step raised ValueError: not enough values to unpack \(expected 5, got 4\)"),
    zoo.WrongShape: (
        WrongObservation,
        r"step returned an observation of shape \(1,\) .*, and declared \(2,\)",
    ),
    zoo.WrongType: (WrongObservation, "step returned an observation .*type float64, and declared .*uint8"),
    zoo.SeesNone: (WrongObservation, "step returned an observation .*type object, and declared .*float32"),
    zoo.NoReward: (TypeError, "step raised TypeError: float"),
    zoo.WrongPicture: (WrongObservation, r"step returned an observation of shape \(59, 80, 3\)"),
}


@WORKERS
@pytest.mark.parametrize("kind", list(FAILS), ids=lambda kind: kind.__name__)
def test_what_fails_ends_with_one_line(kind, workers, small, capfd):
    cause, message = FAILS[kind]
    with pytest.raises(UserError, match=rf"^zoo:{kind.__name__} \(copy [0-3]\) failed: {message}") as caught:
        train(small.replace(env={"id": kind, "workers": workers}), progress=False)
    assert "\n" not in str(caught.value)
    if workers:  # the original stayed in its process; its traceback came over
        assert cause.__name__ in str(caught.value.__cause__)
    else:
        assert isinstance(caught.value.__cause__, cause)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


@WORKERS
def test_a_failure_in_an_evaluation_ends_with_one_line(workers, small):
    policy = make_policy(small.policy, make_env(small.replace(env={"id": zoo.Walk}).env))
    broken = small.replace(env={"id": zoo.RaisesInStep, "workers": workers}).env
    with pytest.raises(UserError, match=r"^zoo:RaisesInStep \(copy [0-2]\) failed: step raised ValueError"):
        evaluate(policy, broken, episodes=3)
    assert multiprocessing.active_children() == []


def test_a_policy_that_fails_leaves_no_worker():
    def fail(observation):
        raise ArithmeticError

    policy = TensorDictModule(fail, in_keys=["observation"], out_keys=["action"])
    with pytest.raises(ArithmeticError):
        evaluate(policy, config(zoo.Walk, workers=True), episodes=2)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("kind", "call"), [(zoo.Hangs, "step"), (zoo.HangsInReset, "reset")])
def test_a_worker_that_hangs_is_ended_after_its_time(kind, call, small, capfd):
    cfg = small.replace(env={"id": kind, "workers": True, "step_seconds": 1.0})
    message = (
        rf"^zoo:{kind.__name__} \(copy 0, 1, 2, 3\) failed: {call} took more than step_seconds=1; raise that"
    )
    with pytest.raises(UserError, match=message):
        train(cfg, progress=False)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


def test_a_worker_that_kills_itself(small, capfd):
    message = (
        r"^zoo:Killed \(copy [0-3, ]+\) failed: during step, its process was killed by SIGKILL: if memory"
    )
    with pytest.raises(UserError, match=message):
        train(small.replace(env={"id": zoo.Killed, "workers": True}), progress=False)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


def test_a_worker_that_is_killed_is_named():
    env = make_env(config(zoo.NeverEnds, workers=True))
    env.rollout(3)
    os.kill(env.base_env._env.processes[1].pid, signal.SIGKILL)
    with pytest.raises(
        UserError, match=r"^zoo:NeverEnds \(copy 1\) failed: during (step|reset), its process was"
    ):
        env.rollout(3)
    assert multiprocessing.active_children() == []


CALLS = {
    "reset": lambda workers: workers.reset(),
    "step": lambda workers: workers.step(np.zeros(3, dtype=np.int64)),
    "render": lambda workers: workers.call("render"),
    "metadata": lambda workers: workers.get_attr("metadata"),
    "set_attr of note": lambda workers: workers.set_attr("note", ["x" * 1_000_000, "y", "z"]),
}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("call", list(CALLS))
def test_every_call_of_a_worker_that_is_stopped_or_killed_ends_with_one_line(call, number):
    """The long message goes to the worker that is stopped, which reads nothing."""
    workers = Workers([zoo.NeverEnds] * 3, "mine", seconds=1.0)
    workers.reset(seed=0)
    os.kill(workers.processes[0].pid, number)
    if number == signal.SIGKILL:
        workers.processes[0].join()
    message = {
        signal.SIGSTOP: f"{call} took more than step_seconds=1; raise that",
        signal.SIGKILL: f"during {call}, its process was killed by SIGKILL",
    }
    with pytest.raises(UserError, match=rf"^mine \(copy 0\) failed: {message[number]}"):
        CALLS[call](workers)
    assert multiprocessing.active_children() == []


def test_workers_set_attributes():
    workers = Workers([zoo.NeverEnds] * 3, "mine", seconds=float(GENEROUS))
    workers.set_attr("place", [1, 2, 3])
    workers.set_attr("note", "same")
    assert workers.get_attr("place") == (1, 2, 3) and workers.get_attr("note") == ("same",) * 3
    workers.close()


def test_workers_leave_an_interrupt_to_their_parent():
    env = make_env(config(zoo.NeverEnds, workers=True))
    for process in env.base_env._env.processes:
        os.kill(process.pid, signal.SIGINT)
    assert env.rollout(5).shape == (3, 5)
    env.close()
    assert multiprocessing.active_children() == []


def test_an_environment_that_will_not_close_is_ended():
    """As one that hangs in its ``close`` would be: its worker never answers again."""
    env = make_env(config(zoo.NeverEnds, workers=True, step_seconds=1.0))
    for process in env.base_env._env.processes:
        os.kill(process.pid, signal.SIGSTOP)
    env.close()
    assert multiprocessing.active_children() == []


def descendants(pid):
    """The running processes that come from ``pid``; those that only wait to be buried do not count."""
    table = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in table.splitlines()]
    found, parents = [], [str(pid)]
    while parents:
        parents = [row[0] for row in rows if row[1] in parents and not row[2].startswith("Z")]
        found += parents
    return found


def running(pids):
    shown = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(pids)], capture_output=True, text=True).stdout
    return [state for state in shown.split() if not state.startswith("Z")]


def wait_until(done):
    end = time.monotonic() + GENEROUS
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


def test_no_worker_outlives_a_parent_that_is_killed(subprocess_env):
    """Not even one that hangs; and nothing stays in the folder for temporary files."""
    code = (
        "import threading\n"
        "from recdqn import make_env\n"
        "from recdqn.config import EnvConfig\n"
        "env = make_env(EnvConfig(id='zoo:Hangs', num_envs=3, workers=True, observation='whole',\n"
        "                         step_seconds=1000.0))\n"
        "threading.Timer(0.5, print, ['ready'], {'flush': True}).start()\n"
        "env.rollout(10)\n"
    )
    folder = tempfile.mkdtemp()  # pytest's are too long for a socket's name
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=subprocess_env | {"TMPDIR": folder},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while "ready" not in (line := parent.stdout.readline()):
            assert line, "the parent ended early"
        children = descendants(parent.pid)
        assert len(children) >= 3
        parent.send_signal(signal.SIGKILL)
        parent.wait(GENEROUS)
        assert wait_until(lambda: not running(children)), f"still there: {running(children)}"
        assert os.listdir(folder) == []
    finally:
        shutil.rmtree(folder)
        parent.kill()
        parent.stdout.close()


def test_workers_print_nothing_but_why_they_cannot_start(subprocess_env):
    """In a process of its own: what workers print goes where it went when the first of all was started."""
    kinds = ["RaisesInStep", "RaisesUnpicklable", "Exits", "Hangs", "Killed", "only_here"]
    code = (
        "from recdqn import make_env\n"
        "from recdqn.config import EnvConfig, UserError\n"
        f"for kind in {kinds}:\n"
        "    try:\n"
        "        cfg = EnvConfig(id=f'zoo:{kind}', num_envs=2, workers=True, observation='whole',\n"
        "                        step_seconds=1.0)\n"
        "        make_env(cfg).rollout(10)\n"
        "    except UserError as error:\n"
        "        print('one line:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=subprocess_env, capture_output=True, text=True, timeout=GENEROUS
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("one line:")]
    assert [line.split(" ")[2] for line in lines] == [f"zoo:{kind}" for kind in kinds]
    assert "during start, its process ended with exit status 1: see what it printed" in lines[-1]
    assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
    for line in done.stderr.splitlines():
        assert "cannot be made: OSError: the licence server does not answer" in line


def test_a_film_of_what_cannot_draw_is_refused(small, tmp_path):
    cfg = small.replace(env={"id": zoo.Walk, "workers": True}).env
    policy = make_policy(small.policy, make_env(small.replace(env={"id": zoo.Walk}).env))
    with pytest.raises(UserError, match=r"^zoo:Walk \(copy 0\) cannot be drawn: .*render_mode='rgb_array'"):
        film(policy, cfg, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
