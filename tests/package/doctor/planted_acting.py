"""Planted bugs of what the agent sees, and of what it does with it."""

from itertools import count

import torch
from pipelines import lstm, network, played, primed, stored, vector_env
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Binary
from torchrl.envs import ObservationNorm, SerialEnv, Transform, UnaryTransform, VecNormV2
from torchrl.envs.utils import ExplorationType
from torchrl.modules import EGreedyModule


def normalised(scale, **options):
    return {"env": vector_env(ObservationNorm(0.0, scale, in_keys=["observation"], **options))}


def started(*functions):
    env = SerialEnv(len(functions), list(functions))
    env.reset()
    return {"env": env}


def one_environment():
    env = vector_env()
    return {"env": SerialEnv(2, [lambda: env, lambda: env])}


def statistics_of_each():
    number = count(1)

    def make():
        return vector_env(ObservationNorm(0.0, float(next(number)), in_keys=["observation"]))

    env = SerialEnv(2, make)
    env.reset()
    for seed, worker in enumerate(env._envs):
        worker.set_seed(seed)
    return {"env": env}


def running_statistics_of_each():
    keys = {"in_keys": ["observation"], "out_keys": ["observation"]}
    env = SerialEnv(2, lambda: vector_env(VecNormV2(**keys)))
    env.set_seed(0)
    env.reset()
    return {"env": env}


class RunningMean(Transform):
    """Subtract the mean of all that it has seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.zeros(()))

    def _step(self, tensordict, next_tensordict):
        value = next_tensordict["observation"]
        self.count += 1
        self.mean += (value - self.mean) / self.count
        return next_tensordict.set("observation", value - self.mean)

    def _reset(self, tensordict, tensordict_reset):
        return self._step(None, tensordict_reset)


class KeptFrames(RunningMean):
    """Add the last two observations, which a reset does not clear, from a buffer."""

    def _step(self, tensordict, next_tensordict):
        value = next_tensordict["observation"]
        before = self.mean.clone()
        self.mean.copy_(value)
        return next_tensordict.set("observation", value + before)


class LastBeforeReset(Transform):
    """Show the last observation of an episode once more, as the first of the next."""

    last = None

    def _step(self, tensordict, next_tensordict):
        self.last = next_tensordict["observation"].clone()
        return next_tensordict

    def _reset(self, tensordict, tensordict_reset):
        return tensordict_reset if self.last is None else tensordict_reset.set("observation", self.last)


class Sum(Transform):
    """Add up observations, over episodes as well."""

    def __init__(self):
        super().__init__()
        self.sum = torch.zeros(2)

    def _step(self, tensordict, next_tensordict):
        self.sum = self.sum + next_tensordict["observation"]
        return next_tensordict.set("observation", next_tensordict["observation"] + 0.01 * self.sum)

    def _reset(self, tensordict, tensordict_reset):
        return self._step(None, tensordict_reset)


class Counts(nn.Module):
    """Add the number of calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, value):
        self.calls += 1
        return value + 0.1 * self.calls


def with_module(place, module, keys, out=None):
    modules = list(network())
    modules.insert(place, TensorDictModule(module, keys, out or keys))
    policy = TensorDictSequential(*modules)
    return {"env": primed(network()), "policy": policy}


def head_without_memory():
    policy = network(lstm(in_key="embed", out_key="memory"))
    head = TensorDictModule(nn.Linear(8, 2), ["embed"], ["action_value"])
    return {"env": primed(policy), "policy": TensorDictSequential(policy[0], policy[1], head, *policy[3:])}


def second_layer_without_reader():
    """Of two recurrent layers, the head reads the first."""
    states = ["h2", "c2"]
    second = lstm(in_keys=["memory", *states], out_keys=["second", *[("next", key) for key in states]])
    policy = network()
    env = primed(policy, second.make_tensordict_primer())
    return {"env": env, "policy": TensorDictSequential(*policy[:2], second, *policy[2:])}


def reads_zeros():
    policy = network()
    zeros = UnaryTransform(in_keys=["observation"], out_keys=["seen"], fn=torch.zeros_like)
    features = TensorDictModule(policy[0].module, ["seen"], ["embed"])
    return {"env": primed(policy, zeros), "policy": TensorDictSequential(features, *policy[1:])}


class Mask(Transform):
    """Forbid the first action."""

    def _call(self, next_tensordict):
        return next_tensordict.set("action_mask", torch.tensor([False, True]))

    def _reset(self, tensordict, tensordict_reset):
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec):
        observation_spec["action_mask"] = Binary(2, shape=(2,), dtype=torch.bool)
        return observation_spec


def masked():
    policy = network()
    return {"env": primed(policy, Mask()), "policy": policy}


def annealed_at_once():
    policy, data = played()
    explore = EGreedyModule(policy[-1].spec["action"], eps_init=1.0, eps_end=0.1, annealing_num_steps=10)
    explore.step(600)
    return {"policy": TensorDictSequential(*policy[:-1], explore), "buffer": stored(data)}


def collected_greedily():
    """Without stored values, so that only the policy shows which actions are the best ones."""
    policy = network()
    env = primed(policy)
    greedy = {"exploration_type": ExplorationType.DETERMINISTIC}
    collector = Collector(env, policy, frames_per_batch=100, total_frames=300, **greedy)
    data = torch.cat([batch.clone() for batch in collector])
    collector.shutdown(close_env=False)
    return {"policy": policy, "buffer": stored(data, exclude=["action_value", "chosen_action_value"])}


def greedy_after_exploring():
    modules = list(network())
    greedy = TensorDictModule(lambda q: nn.functional.one_hot(q.argmax(-1), 2), ["action_value"], ["action"])
    return {"env": primed(network()), "policy": TensorDictSequential(*modules, greedy)}


PLANTED = [  # code, part of the message, function that returns the parts
    ("norm-off", "'observation'", lambda: normalised(0.001, standard_normal=True)),
    ("norm-off", "not 1", lambda: normalised(torch.tensor([0.12, 0.07]))),
    ("workers-alike", "the same seed", lambda: started(vector_env, vector_env)),
    ("workers-alike", "the same environment object", one_environment),
    ("workers-differ", "scale of ObservationNorm", statistics_of_each),
    ("workers-differ", "loc of 'observation' of VecNormV2", running_statistics_of_each),
    ("norm-learns", "mean of RunningMean", lambda: {"env": vector_env(RunningMean())}),
    ("reset-remembers", "KeptFrames", lambda: {"env": vector_env(KeptFrames())}),
    ("autoreset-step", "'observation'", lambda: {"env": vector_env(LastBeforeReset())}),
    ("reset-remembers", "Sum", lambda: {"env": vector_env(Sum())}),
    ("memory-outside-data", "keeps something", lambda: with_module(3, Counts(), ["action_value"])),
    (
        "input-overwritten",
        "'observation'",
        lambda: with_module(0, lambda o: o.mul_(0.5), ["observation"], ["scaled"]),
    ),
    ("memory-ignored", "'memory'", head_without_memory),
    ("memory-ignored", "'second'", second_layer_without_reader),
    ("constant-input", "'seen'", reads_zeros),
    ("action-mask-ignored", "'action_mask'", masked),
    ("exploration-over", "EGreedyModule", annealed_at_once),
    ("never-explores", "EGreedyModule", greedy_after_exploring),
    ("never-explores", "300 of 300 stored actions", collected_greedily),
]
