"""Parts that hang, raise, return odd types, or live in closures."""

import time

import pytest
import torch
from pipelines import codes, pipeline, played, stored, vector_env
from tensordict import TensorDict
from torch import nn
from torchrl.envs import UnaryTransform

from recdqn import diagnose
from recdqn.doctor.limits import TimeUp, was_cut_off


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
