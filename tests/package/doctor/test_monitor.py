"""The monitor finds what only a running loop shows, and leaves the parts as they were."""

import copy
from contextlib import nullcontext

import pytest
import torch
from pipelines import pipeline
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.objectives import SoftUpdate

from recdqn import RecurrentDQNLoss, monitor
from recdqn.errors import UserError


def loop(parts, updates=25, target=True, anneal=True):
    for _ in range(updates):
        parts["optim"].zero_grad()
        parts["loss"](parts["buffer"].sample())["loss"].backward()
        parts["optim"].step()
        if target:
            parts["updater"].step()
    parts["buffer"].extend(parts["buffer"][:].exclude("index").clone())
    if anneal:
        parts["policy"][-1].step(2_000)


def made(loss=RecurrentDQNLoss, network=lambda policy: policy[:-1]):
    parts = pipeline()
    parts["loss"] = loss(network(parts["policy"]), action_space="one-hot")
    parts["updater"] = SoftUpdate(parts["loss"], tau=0.1)
    parts["optim"] = torch.optim.Adam(parts["loss"].parameters(), lr=1e-3)
    return parts


def watched(parts, **options):
    with monitor(**parts) as doctor:
        loop(parts, **options)
    return [finding.code for finding in doctor.report.findings]


def test_a_right_loop_has_no_finding_and_its_parts_are_as_before():
    parts = made()
    before = {name: set(vars(part)) for name, part in parts.items()}
    assert watched(parts) == []
    for name, part in parts.items():
        assert "step" not in set(vars(part)) - before[name] and "rollout" not in vars(part)


def test_a_target_that_nothing_steps():
    assert watched(made(), target=False) == ["target-frozen"]


def test_exploration_that_nothing_anneals():
    parts = made()
    parts["policy"][-1].eps.fill_(1.0)
    parts["policy"][-1].annealing_num_steps = 1_000
    assert watched(parts, anneal=False) == ["exploration-frozen"]


def test_weights_that_do_not_reach_the_policy():
    assert watched(made(network=lambda policy: copy.deepcopy(policy[:-1]))) == ["trains-a-copy"]


def test_an_optimiser_without_the_memory():
    parts = made()
    some = [p for name, p in parts["loss"].named_parameters() if "lstm" not in name]
    parts["optim"] = torch.optim.Adam(some)
    assert watched(parts) == ["memory-not-trained"]


def test_evaluation_in_the_collectors_environment():
    parts = made()
    with monitor(**parts) as doctor:
        loop(parts)
        parts["env"].rollout(3, parts["policy"])
    assert [finding.code for finding in doctor.report.findings] == ["impossible-steps"]


def test_an_error_of_the_loop_passes_and_nothing_stays_counted():
    parts = made()
    with pytest.raises(ZeroDivisionError), monitor(**parts):
        1 / 0  # noqa: B018
    assert "step" not in vars(parts["updater"])


def test_it_looks_on_for_some_collections():
    parts = made()
    data = parts["buffer"][:4].exclude("index").clone()
    with monitor(**parts, collections=2) as doctor:
        loop(parts, target=False)
        parts["buffer"].extend(data)
        assert doctor.report.findings == () and "extend" in vars(parts["buffer"])
        parts["buffer"].extend(data)  # the third ends it
        assert "extend" not in vars(parts["buffer"]) and "step" not in vars(parts["updater"])
        parts["updater"].step()
        parts["env"].rollout(3, parts["policy"])
    assert [finding.code for finding in doctor.report.findings] == ["target-frozen"]


class Operations(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_it_computes_nothing_in_the_loop():
    """As many tensor operations with it as without."""
    counts = []
    for watch in (False, True):
        parts = made()
        batch = parts["buffer"].sample()
        with monitor(**parts) if watch else nullcontext():
            for k in range(4):
                count = Operations() if k else nullcontext()  # the first step makes the optimiser's state
                with count:
                    parts["loss"](batch)["loss"].backward()
                    parts["optim"].step()
                    parts["updater"].step()
                    parts["policy"][-1].step(10)
        counts.append(count.calls)
    assert counts[0] == counts[1] > 100


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"policy": 3}, "policy is a int: expected Module"),
        ({"buffer": [1]}, "buffer is a list: expected ReplayBuffer"),
        ({"loss": print}, "loss is a builtin_function_or_method: expected Module"),
        ({"optim": 3}, "optim is a int: expected Optimizer"),
    ],
)
def test_parts_of_another_type_are_refused(part, message):
    with pytest.raises(UserError, match=message):
        monitor(**part)


@pytest.mark.parametrize(
    "options", [{"collections": 0}, {"collections": 1.5}, {"collections": 3, "buffer": None}]
)
def test_collections_are_counted_by_a_buffer(options):
    with pytest.raises(UserError, match="collections="):
        monitor(**made() | options)


def test_nothing_to_watch():
    with pytest.raises(UserError, match="nothing to watch: give some of env"):
        monitor()
