"""What the chapter on several machines says of TorchRL's ways to collect with many processes."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.collectors.distributed import DistributedCollector, RPCCollector
from torchrl.data import LazyMemmapStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import ParallelEnv

from recdqn import Config, add_primers, make_env, make_policy

CHAPTER = Path(__file__).parents[2] / "book" / "chapters" / "09-more-than-one-machine.ipynb"

CFG = Config.preset("masked-cartpole").replace(env={"num_envs": 1})
TRAJECTORY = ("collector", "traj_ids")


def one_env():
    env = make_env(CFG.env)
    add_primers(env, make_policy(CFG.policy, env))
    return env


@pytest.fixture
def policy():
    return make_policy(CFG.policy, one_env())


def mixed_and_cut(steps):
    """Steps that have the number of the step before but do not follow it; pieces beyond one per episode."""
    numbers = steps[TRAJECTORY]
    same = numbers[1:] == numbers[:-1]
    follows = (steps["next", "observation"][:-1] == steps["observation"][1:]).all(-1)
    pieces, episodes = int((~same).sum()) + 1, len(numbers.unique())
    return int((same & ~follows).sum()), pieces - episodes


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of TorchRL and its processes
def test_one_collector_counts_the_episodes_of_all_its_environments(policy):
    collector = Collector(ParallelEnv(2, one_env), policy, frames_per_batch=32, total_frames=640)
    rows = torch.cat(list(collector), 1)
    collector.shutdown()
    assert mixed_and_cut(rows.reshape(-1)) == (0, 0)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of TorchRL and its processes
@pytest.mark.parametrize("kind", [MultiSyncCollector, MultiAsyncCollector])
def test_workers_of_one_machine_count_together_and_cut_each_others_episodes(kind, policy):
    buffer = TensorDictReplayBuffer(
        storage=LazyMemmapStorage(2_000),
        sampler=SliceSampler(slice_len=10, traj_key=TRAJECTORY, strict_length=False),
        batch_size=200,
        shared=True,
    )
    collector = kind([one_env] * 2, policy, frames_per_batch=32, total_frames=640, replay_buffer=buffer)
    for _ in collector:
        pass
    mixed, cut = mixed_and_cut(buffer[:])
    collector.shutdown()
    assert mixed == 0 and cut > 0


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of TorchRL and its processes
@pytest.mark.parametrize(
    ("kind", "options"),
    [(DistributedCollector, {"backend": "gloo", "sync": True}), (RPCCollector, {"sync": True})],
)
def test_remote_collectors_count_each_from_zero(kind, options, policy):
    collector = kind([one_env] * 2, policy, frames_per_batch=32, total_frames=480, launcher="mp", **options)
    steps = torch.cat([batch.reshape(-1).clone() for batch in collector])
    collector.shutdown()
    mixed, cut = mixed_and_cut(steps)
    assert mixed > 0 and cut > 0


@pytest.fixture(scope="module")
def files():
    """The YAML files of the chapter."""
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells)
    return [yaml.safe_load(block) for block in re.findall(r"(?s)```yaml\n(.*?)```", text)]


def test_the_file_of_ray_up_fits_the_schema_of_ray(files):
    util = pytest.importorskip("ray.autoscaler._private.util", reason="pip install 'recdqn[scale]'")
    config = util.prepare_config(files[0])
    util.validate_config(config)
    assert [node["max_workers"] for node in config["available_node_types"].values()] == [2]
    with pytest.raises(Exception, match="'hosts' was unexpected"):
        util.validate_config(config | {"hosts": []})


def test_the_autoscaler_of_ray_reads_the_manifest_of_kuberay(files):
    module = "ray.autoscaler._private.kuberay.autoscaling_config"
    kuberay = pytest.importorskip(module, reason="pip install 'recdqn[scale]'")
    files[1]["metadata"]["namespace"] = "default"
    config = kuberay._derive_autoscaling_config_from_ray_cr(files[1])
    nodes = {name: node["resources"]["CPU"] for name, node in config["available_node_types"].items()}
    assert nodes == {"headgroup": 0, "actors": 4}
    assert config["available_node_types"]["actors"]["max_workers"] == 4
