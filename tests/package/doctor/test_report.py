"""The report, reasons for skipped checks, and parts of a wrong type."""

import pytest
import torch
from pipelines import loss_parts, network, pipeline, played, select, stored
from planted_data import image_buffer
from planted_loss import stock_loss
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from recdqn import diagnose
from recdqn.doctor import BUGS, Finding, Report
from recdqn.errors import UserError


def test_report_in_a_terminal_and_in_a_notebook():
    report = diagnose(**select(stock_loss(), "buffer", "loss"))
    text = str(report).splitlines()
    assert text[0] == f"1 error, 0 warnings; {len(report.checked)} of {len(BUGS)} checks ran"
    assert text[1].split()[:2] == ["error", "target-leak"] and max(map(len, text)) <= 78
    assert "Fix: " + BUGS["target-leak"].fix in " ".join(str(report).split())
    shown = report._repr_html_()
    assert "<table" in shown and ">target-leak</a></td>" in shown and "no env given" in shown
    assert diagnose(**loss_parts())._repr_html_() is None  # then the text is shown


def test_markup_in_a_message_is_escaped():
    report = Report((Finding("no-primer", "error", "<script>", "a & b"),), ("no-primer",))
    assert "&lt;script&gt;" in report._repr_html_() and "<script>" not in report._repr_html_()


def test_errors_come_first():
    report = diagnose(**image_buffer(torch.float32, twice=True), policy=network(), loss=loss_parts()["loss"])
    severities = [finding.severity for finding in report.findings]
    assert severities == ["error"] * len(report.errors) + ["note"] * 2 and report.errors


@pytest.mark.parametrize(
    ("parts", "code", "reason"),
    [
        (lambda: {"policy": network()}, "target-leak", "no loss and no batch given"),
        (lambda: {"policy": network()}, "no-primer", "no env given"),
        (lambda: select(loss_parts(), "loss"), "target-frozen", "no updater given"),
        (
            lambda: {"buffer": TensorDictReplayBuffer(storage=LazyTensorStorage(5), batch_size=2)},
            "state-lost",
            "the buffer is empty",
        ),
    ],
)
def test_skipped_checks_have_a_reason(parts, code, reason):
    report = diagnose(**parts())
    assert report.skipped[code] == reason
    assert set(report.skipped) | set(report.checked) == set(BUGS)
    assert f"not checked, {reason}: " in " ".join(str(report).split())


def test_a_part_that_raises_does_not_hide_the_findings_of_others():
    def broken(batch):
        raise ValueError("no such key\nsecond line")

    policy, data = played()
    report = diagnose(policy=policy, buffer=stored(data), loss=broken)
    assert report.skipped["target-leak"] == "running it failed with ValueError: no such key"
    (finding,) = report.errors
    assert finding.code == "does-not-run" and "ValueError: no such key" in finding.message
    assert "state-lost" in report.checked


def test_a_loss_of_one_number_that_does_not_read_the_reward():
    parts = pipeline()
    value = parts["policy"][:-1]
    report = diagnose(buffer=parts["buffer"], loss=lambda batch: value(batch)["action_value"].mean())
    assert report.skipped["target-leak"] == "the loss gives one number, and does not read the reward"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "nothing to check: give at least one of env, policy, buffer, batch, loss, updater"),
        ({"env": "CartPole-v1"}, "env is a str: expected EnvBase"),
        ({"policy": nn.Linear(1, 1)}, "policy is a Linear: expected TensorDictModuleBase"),
        ({"buffer": [1]}, "buffer is a list: expected ReplayBuffer"),
        ({"batch": {}}, "batch is a dict: expected TensorDictBase"),
        ({"loss": 1.0}, "loss is a float: expected Callable"),
        ({"updater": print}, "updater is a builtin_function_or_method: expected TargetNetUpdater"),
        (
            {"batch": TensorDict({}, [0])},
            r"batch has shape \[0\]: expected \[N\] or .*",
        ),
        ({"batch": TensorDict({}, [])}, r"batch has shape \[\]: expected .*"),
        ({"loss": print, "frames": 0}, "frames=0: expected the number of environment steps, 1 or more"),
        ({"loss": print, "frames": "all"}, "frames='all': expected .*"),
        ({"loss": print, "only": 5}, r"only=5: expected codes, such as \['target-leak'\]"),
        ({"loss": print, "ignore": [None]}, r"ignore=\[None\]: expected codes, .*"),
        ({"loss": print, "only": "no-prime"}, "there is no code 'no-prime': did you mean no-primer.*"),
        ({"loss": print, "only": ["x"]}, "there is no code 'x': see https.*"),
        (
            {"loss": print, "only": "no-primer", "ignore": ["no-primer"]},
            "nothing to look for: every code is ignored",
        ),
    ],
)
def test_wrong_parts_are_refused(parts, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        diagnose(**parts)
