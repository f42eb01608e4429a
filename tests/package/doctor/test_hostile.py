"""Parts that hang, raise, return odd types, or live in closures."""

import time

import pytest
import torch
from pipelines import codes, pipeline, played, primed, stored, vector_env
from tensordict import LazyStackedTensorDict, TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import RandomSampler
from torchrl.envs import UnaryTransform

from recdqn import diagnose
from recdqn.doctor.limits import TimeUp, was_cut_off


@pytest.fixture(autouse=True)
def patient():
    """The doctor's own limits, for parts that hang."""


def test_a_hanging_environment_ends_only_its_own_checks():
    def hang(observation):
        time.sleep(1_000)

    env = vector_env()
    env.append_transform(UnaryTransform(["observation"], ["observation"], fn=hang))
    policy, data = played()
    report = diagnose(
        env=env, policy=policy, buffer=stored(data), only=["no-primer", "state-lost", "norm-off"]
    )
    assert report.skipped["no-primer"] == "the env took longer than 3 seconds"
    assert "state-lost" in report.checked


def with_features(module):
    policy = played()[0]
    features = TensorDictModule(module, ["observation"], ["embed"])
    return {"env": primed(policy), "policy": TensorDictSequential(features, *policy[1:])}


class Features(nn.Linear):
    def __init__(self, act=lambda: None):
        super().__init__(2, 8)
        self.act = act

    def forward(self, value):
        self.act()
        return super().forward(value)


def test_a_hanging_policy_ends_only_its_own_checks():
    parts = with_features(Features(lambda: time.sleep(1_000)))
    report = diagnose(**parts, only=["does-not-run", "no-primer", "autoreset-step", "masked-leak"])
    assert report.skipped["no-primer"] == "the policy took longer than 3 seconds"
    assert "masked-leak" in report.checked


def test_a_hanging_sampler_is_waited_for_once():
    class Hangs(RandomSampler):
        calls = 0

        def sample(self, *args, **kwargs):
            Hangs.calls += 1
            time.sleep(1_000)

    policy, data = played()
    report = diagnose(policy=policy, buffer=stored(data, Hangs()))
    assert Hangs.calls == 1
    assert report.skipped["state-lost"] == "the buffer took longer than 3 seconds"


def leave():
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_features(Features(leave)), "the policy fails in the environment: SystemExit: 3"),
        (
            lambda: {
                "env": vector_env(),
                "policy": TensorDictModule(nn.Linear(2, 2), ["observation"], ["z"]),
            },
            "the policy writes 'z', and not 'action'",
        ),
        (lambda: {"buffer": stored(played()[1]), "loss": lambda batch: leave()}, "SystemExit: 3"),
        (lambda: {"buffer": stored(played()[1]), "loss": lambda batch: None}, "returns a NoneType"),
    ],
)
def test_what_does_not_run_is_an_error(make, message):
    (finding,) = diagnose(**make()).errors
    assert finding.code == "does-not-run" and message in finding.message


def blind():
    policy = played()[0]
    nothing = UnaryTransform(["observation"], ["observation"], fn=lambda value: value * torch.nan)
    return {"env": primed(policy, nothing), "policy": policy}


def undefined():
    return {"buffer": stored(played()[1]), "loss": lambda batch: batch["next", "reward"].mean() * torch.nan}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (blind, "'observation' of the environment"),
        (undefined, "is nan for a batch of finite numbers"),
    ],
)
def test_numbers_that_are_not_finite_are_one_error(make, message):
    (finding,) = diagnose(**make()).errors
    assert finding.code == "not-finite" and message in finding.message


def test_a_batch_of_stacked_steps_is_a_batch():
    """Setting an entry of a lazy stack copies it, without its gradient."""
    parts = pipeline()
    batch = LazyStackedTensorDict(*parts.pop("buffer").sample().unbind(0))
    report = diagnose(**parts, batch=batch, only=["memory-not-trained"])
    assert codes(report) == [] and report.checked


def test_modules_in_a_closure_stay_as_they_were():
    norm = nn.BatchNorm1d(2)
    head = nn.Linear(2, 2)

    def loss(batch):
        value = (head(norm(batch["observation"])) * batch["action"]).sum(-1)
        return ((value - batch["next", "reward"].squeeze(-1)) ** 2).mean()

    before = {name: value.clone() for name, value in norm.state_dict().items()}
    report = diagnose(buffer=stored(played()[1]), loss=loss)
    assert "does-not-run" not in codes(report) and "target-leak" in report.checked
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_loss_may_return_a_tuple_or_a_dictionary():
    parts = pipeline()
    inner = parts["loss"]
    for wrap in (lambda out: (out, {"n": 1}), lambda out: {"loss_q": out, "count": 3}):
        loss = lambda batch, wrap=wrap: wrap(inner(batch)["loss"])  # noqa: E731
        report = diagnose(buffer=parts["buffer"], policy=parts["policy"], loss=loss)
        assert codes(report) == [] and "target-leak" in report.checked


def test_the_end_of_the_time_is_seen_behind_another_error():
    """TensorDict's ``to_module`` raises another error where one passes through it."""
    layer = torch.nn.Linear(1, 1)
    with (
        pytest.raises(RuntimeError, match="boolean value") as caught,
        TensorDict.from_module(layer).to_module(layer),
    ):
        raise TimeUp
    assert was_cut_off(caught.value) and not was_cut_off(ValueError("other"))
