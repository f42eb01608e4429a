"""Ray actors collect what the same actors collect without Ray, also when some are killed."""

import gc
import importlib.util
import os
import re
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
import torch
from torch.testing import assert_close

from recdqn import Config, make_env, make_policy, make_replay_buffer, train
from recdqn.errors import NotFinite, UserError
from recdqn.scale import Actor, Cluster, Fleet, fleet, sources
from recdqn.sweep import combinations, sweep

ray = pytest.importorskip("ray", reason="pip install 'recdqn[scale]'")
pytestmark = [
    # Ray's own, at its first actor that asks for no GPU.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


@pytest.fixture(scope="module")
def ray_here():
    """Ray on this machine, with three processors, for all tests of this module."""
    cluster = Cluster(Config(scale={"actors": 3}))
    yield
    cluster.close()
    assert not ray.is_initialized()


@pytest.fixture
def cfg(tiny):
    return tiny.replace(
        env={"num_envs": 4}, train={"frames_per_batch": 64}, scale={"actors": 2, "start_seconds": 600.0}
    )


def policy_of(cfg):
    torch.manual_seed(1)
    return make_policy(cfg.policy, make_env(cfg.env))


def expected(cfg, policy, count):
    """Collect with the same actors, one after another in this process."""
    before, weights = torch.get_rng_state(), policy.state_dict()
    parts = []
    for number in range(cfg.scale.actors):
        actor = Actor(cfg, number)
        parts.append([actor.collect(weights, None)[0] for _ in range(count)])
    torch.set_rng_state(before)
    return [
        {name: np.concatenate([part[name] for part in both]) for name in both[0]}
        for both in zip(*parts, strict=True)
    ]


def assert_collected(steps, arrays):
    found = steps.flatten_keys(".").to_dict()
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert_close(found[name].numpy(), value, rtol=0, atol=0)


def kill_one():
    """Kill an actor as the system would, and return its process."""
    actors = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Actor")]
    actors[0].kill()
    return actors[0]


def test_without_actors_ray_is_not_needed():
    """Where it is installed, TorchRL 0.14.1 imports it, but nothing is started."""
    code = """
import sys
import threading
sys.modules["ray"] = None  # an import raises ImportError
from recdqn import Config, train
cfg = Config.preset("masked-cartpole").replace(
    env={"num_envs": 2},
    train={"total_frames": 128, "warmup_frames": 64, "updates": 1, "eval_episodes": 1},
)
train(cfg, progress=False)
assert not any(name.startswith("recdqn.scale") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_ray_is_missing(cfg, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(UserError, match=r"^Ray is not installed: pip install 'recdqn\[scale\]'$"):
        train(cfg, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="reads the environment of Ray's processes")
def test_a_ray_that_is_started_here_writes_nothing_into_the_home_directory(tmp_path):
    """Its processes have a token, and this one its settings and handlers; also at a second start."""
    code = """
import os
import signal
import psutil
from recdqn import Config
from recdqn.scale import Cluster
settings_here = lambda: {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
before, stop = settings_here(), lambda *_: None
signal.signal(signal.SIGTERM, stop)
for _ in range(2):
    cluster = Cluster(Config(scale={"actors": 1}))
    assert settings_here() == before
    assert signal.getsignal(signal.SIGTERM) is stop
    (raylet,) = [p for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
    settings = {name: raylet.environ().get(name, "") for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")}
    assert settings == {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}, settings
    assert len(raylet.environ()["RAY_AUTH_TOKEN"]) == 32
    cluster.close()
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=kept | {"HOME": str(tmp_path)}, check=True
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:1", "host:port"])
def test_a_cluster_that_cannot_be_reached(cfg, address, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    cfg = cfg.replace(scale={"address": address})
    with pytest.raises(UserError) as error:
        train(cfg, out=tmp_path / "run", progress=False)
    assert re.fullmatch(
        rf"scale.address='{re.escape(address)}' cannot be used \(.*\): expected .*", str(error.value)
    )
    assert not (tmp_path / "run").exists()


def test_each_environment_explores_by_its_step_of_the_ladder(cfg):
    """A random action is one of two, so half of them differ from the greedy one."""
    cfg = cfg.replace(scale={"ladder": True}, train={"frames_per_batch": 2_000})
    weights = policy_of(cfg).state_dict()  # whose own share of random actions is 1
    shares = []
    for number in range(2):
        steps, *_ = Actor(cfg, number).collect(weights, None)
        greedy = steps["action_value"].argmax(-1) == steps["action"].argmax(-1)
        shares += (2 * (1 - greedy.mean(1))).tolist()
    assert shares == pytest.approx([0.4, 0.4 ** (1 + 7 / 3), 0.4 ** (1 + 14 / 3), 0.4**8], abs=0.08)


@pytest.mark.parametrize("envs", [2, 1])
def test_a_fleet_collects_what_its_actors_collect(cfg, ray_here, envs):
    """With one environment for each actor, and with one in all; the next test has two for each."""
    cfg = cfg.replace(env={"num_envs": envs}, scale={"actors": min(envs, 2)})
    policy, buffer = policy_of(cfg), make_replay_buffer(cfg)
    worker = ray._private.worker.global_worker.core_worker  # no public way counts references
    held = []  # objects in the object store: they stay as long as this process refers to them
    with Fleet(cfg, policy) as ours:
        into = ours.collect_into(buffer)
        for _ in range(3):
            next(into)
            gc.collect()
            held.append(len(worker.get_all_reference_counts()))
    assert held[0] == held[1] == held[2]
    whole = expected(cfg, policy, 3)
    stored = buffer[:].exclude("index").flatten_keys(".").to_dict()
    for name, value in stored.items():
        arrays = np.concatenate([arrays[name] for arrays in whole], 1)
        assert_close(value.numpy().reshape(arrays.shape), arrays, rtol=0, atol=0)


def test_a_killed_actor_is_replaced_and_repeats_what_was_lost(cfg, ray_here):
    policy, said = policy_of(cfg), []
    with Fleet(cfg, policy, said.append) as ours:
        collected = [ours.collect() for _ in range(2)]
        kill_one()
        collected += [ours.collect() for _ in range(3)]
    for steps, arrays in zip(collected, expected(cfg, policy, 5), strict=True):
        assert_collected(steps, arrays)
    assert len(said) == 1
    assert re.fullmatch(r"actor \d died \(ActorDiedError: .*\): another one goes on with its episodes", *said)

    steps = torch.cat(collected, 1)  # episodes have numbers of their own, and their steps connect
    numbers = steps["collector", "traj_ids"]
    envs = [set(row.tolist()) for row in numbers]
    assert sum(map(len, envs)) == len(set.union(*envs)) > 8
    same = numbers[:, 1:] == numbers[:, :-1]
    for key in ("observation", "recurrent_state_h", "recurrent_state_c"):
        assert_close(steps["next", key][:, :-1][same], steps[key][:, 1:][same], rtol=0, atol=0)


def test_a_fleet_with_the_state_of_another_goes_on_from_there(cfg, ray_here):
    """Also with the weights of the collections that were under way: the learner has others by then."""
    cfg = cfg.replace(scale={"pipeline": 2, "actors": 1})
    policy = policy_of(cfg)
    with Fleet(cfg, policy) as ours:
        ours.collect()
        state = ours.state_dict()
        rest = [ours.collect() for _ in range(2)]
    torch.nn.init.zeros_(policy[-3].module[-1].weight)
    with Fleet(cfg, policy) as ours:
        ours.load_state_dict(state)
        for steps in rest:
            assert_collected(ours.collect(), {k: v.numpy() for k, v in steps.flatten_keys(".").items()})
        assert not torch.equal(ours.collect()["action_value"], rest[-1]["action_value"])


@pytest.mark.parametrize("lag", [pytest.param(1, marks=pytest.mark.long), 3])  # the chapter has both
def test_weights_are_as_many_collections_old_as_the_pipeline_is_long(cfg, ray_here, lag):
    """The network's values say which weights they come from."""
    cfg = cfg.replace(scale={"pipeline": lag, "actors": 1})
    policy = policy_of(cfg)
    last = policy[-3].module[-1]
    torch.nn.init.zeros_(last.weight)
    seen = []
    with Fleet(cfg, policy) as ours:
        for version in range(6):
            torch.nn.init.constant_(last.bias, version)
            seen.append(ours.collect()["action_value"].unique().item())
    assert seen == [max(version - lag, 0) for version in range(6)]


def test_too_few_processors(cfg, ray_here, tmp_path):
    cfg = cfg.replace(scale={"actors": 4, "start_seconds": 2.0})
    with pytest.raises(UserError) as error:
        train(cfg, out=tmp_path / "run", progress=False)
    assert re.fullmatch(
        r"scale.actors=4: [1-4] did not start within scale.start_seconds=2; the cluster has 3 processors, "
        r"\d of them free: use fewer actors, or add machines",
        str(error.value),
    )
    assert not (tmp_path / "run").exists()


def walk(cfg, name):
    return cfg.replace(env={"id": name, "observation": "whole", "loc": (0.0,), "scale": (1.0,)})


def test_an_actor_that_dies_again_and_again(cfg, ray_here, monkeypatch):
    monkeypatch.setattr(fleet, "DEATHS", 2)
    cfg = walk(cfg, "faulty:Killed").replace(scale={"actors": 1})
    with Fleet(cfg, policy_of(cfg)) as ours:
        with pytest.raises(UserError, match=r"^actor 0 died 2 times during the same collection \(ActorDied"):
            ours.collect()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zoo:raises", r"^env.id='zoo:raises' cannot be made: ValueError: no"),
        ("faulty:RaisesInStep", r"^faulty:RaisesInStep \(copy 0\) failed: step raised ValueError: off"),
    ],
)
def test_errors_of_an_environment_arrive_as_they_are(cfg, ray_here, name, message):
    cfg = walk(cfg, name).replace(scale={"actors": 1})
    with Fleet(cfg, policy_of(walk(cfg, "zoo:Walk"))) as ours:
        with pytest.raises(UserError, match=message):
            ours.collect()


def test_a_value_that_is_not_finite_arrives_with_its_batch(cfg, ray_here):
    cfg = walk(cfg, "faulty:InfiniteReward").replace(scale={"actors": 1})
    message = r"^\('next', 'reward'\) from the environment is not finite$"
    with Fleet(cfg, policy_of(cfg)) as ours:
        ours.collect()
        with pytest.raises(NotFinite, match=message) as error:
            ours.collect()
    assert error.value.batch["next", "reward"].isinf().any()


def test_what_is_sent_to_the_nodes(cfg, tmp_path, monkeypatch):
    """The package, and the user's module or its package; nothing that is installed."""
    (tmp_path / "my_game.py").touch()
    (tmp_path / "my_games" / "inside").mkdir(parents=True)
    (tmp_path / "my_games" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def sent(name):
        return sources(cfg.replace(env={"id": name}))[1:]

    assert sources(cfg)[0].endswith("recdqn")
    assert sent("my_game:make") == [str(tmp_path / "my_game.py")]
    assert sent("my_games.inside:make") == [str(tmp_path / "my_games")]
    for name in ("CartPole-v1", "gymnasium:CartPole-v1", "json:make", "no_such_module:make", "sys:make"):
        assert sent(name) == []


def test_a_sweep_on_a_cluster_survives_the_loss_of_a_worker(tiny, ray_here, tmp_path):
    """Its run is that of a process here."""
    killed = []

    def kill_worker():
        tasks = [p for p in psutil.Process().children(recursive=True) if "_train_away" in p.name()]
        if tasks:
            tasks[0].kill()
            killed.append(1)
            return
        timer = threading.Timer(0.2, kill_worker)
        timer.daemon = True
        timer.start()

    kill_worker()
    sweep(combinations(tiny, {"seed": (1,)}), tmp_path, address="local")
    assert killed
    found = torch.load(tmp_path / "masked-cartpole" / "seed-1" / "policy.pt", weights_only=True)
    for name, value in train(tiny.replace(seed=1), progress=False).policy.state_dict().items():
        assert torch.equal(found[name], value), name
