"""Checks of scales: of rewards on their way to the loss, and of the numbers that the first layer reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import Transform, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.common import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import Evidence, Found, is_image, name_of, transforms_of
from recdqn.doctor.checks.discount import make_constant
from recdqn.doctor.copies import copy_part, reachable_modules
from recdqn.doctor.internals import worker_envs
from recdqn.doctor.probe import REWARD, LossProbe, Skip
from recdqn.doctor.subject import Subject

FAR = 20  # times, between what the first layer reads in the loss and where the policy acts
STEPS = 64  # that the policy reads
BRIGHTEST = 255  # of a byte: images are divided by it once
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase, nn.RNNCellBase)


def _stored_and_sampled(subject: Subject) -> tuple[TensorDictBase, TensorDictBase]:
    """Return the same steps ``[N]`` as they are stored and as they are sampled."""
    buffer = subject.buffer
    batch, info = buffer.sample(return_info=True)
    raw = buffer.storage.get(info["index"])
    if not isinstance(raw, TensorDictBase) or raw.numel() != batch.numel():
        raise Skip("the storage does not hold single steps")
    return raw.cpu().reshape(-1), batch.cpu().reshape(-1)


def rewards_in_buffer(subject: Subject) -> Found:
    """Compare sampled rewards with the stored ones, and those with the base environment's."""
    raw, batch = _stored_and_sampled(subject)
    if raw.get(REWARD, None) is None or batch.get(REWARD, None) is None:
        raise Skip(f"no {REWARD!r} is stored")
    sampled, collected = _factor(raw[REWARD], batch[REWARD]), math.prod(_reward_factors(subject))
    if sampled not in (None, 1.0) and collected != 1:
        yield (
            "scale-differs",
            f"rewards are multiplied by {collected:.3g} in the environment and by {sampled:.3g} in the "
            f"buffer: the loss reads {batch[REWARD].abs().max():.2g} at most",
            None,
            "keep RewardScaling in the environment, and remove it from the buffer",
        )


def observations(subject: Subject) -> Found:
    """Compare sampled observations with the stored ones."""
    raw, batch = _stored_and_sampled(subject)
    spec = subject.env.observation_spec
    for key in subject.policy_observations:
        here, there = raw.get(key, None), batch.get(key, None)
        if here is None or there is None or here.shape != there.shape or key not in spec.keys(True, True):
            continue
        large, small = (float(v.double().abs().max()) for v in (here, there))
        if here.dtype != subject.steps[0].before.get(key).dtype or min(large, small) == 0:
            continue
        if max(large / small, small / large) > 10 and _outputs_differ(subject, raw, batch, key):
            yield (
                "scale-differs",
                f"{key!r} is up to {large:.3g} where the policy acts and up to {small:.3g} in the batch: "
                "a transform of "
                f"the buffer changes it, and the network reads both",
                None,
                f"scale {key!r} once: in the network, or in the environment and the buffer alike",
            )


def _factor(before: Tensor, after: Tensor) -> float | None:
    """Return the number that makes the first tensor the second."""
    before, after = before.double().reshape(-1), after.double().reshape(-1)
    if before.shape != after.shape or not before.any():
        return None
    factor = float((before * after).sum() / (before * before).sum())
    close = (after - factor * before).abs().max() <= 1e-4 * after.abs().max().clamp_min(1e-12)
    return round(factor, 6) if close and factor else None


def _reward_factors(subject: Subject) -> list[float]:
    """Return by which numbers the transforms of the environment multiply a reward, without ones.

    Raises:
        Skip: if a transform does something else with it.
    """
    td = subject.steps[0].taken["next"].clone()
    reward = td.get("reward", None)
    if reward is None:
        raise Skip("the environment has no 'reward'")
    factors = []
    for transform in _all_transforms(subject.env):
        if "reward" not in transform.in_keys or "reward" not in transform.out_keys:
            continue
        values = []
        for value in (1.0, 2.0):
            out = transform(td.clone().set("reward", torch.full_like(reward, value))).get("reward")
            values.append(float(out.reshape(-1)[0]))
        if abs(values[1] - 2 * values[0]) > 1e-6:
            raise Skip(f"{name_of(transform)} does not multiply rewards")
        factors.append(round(values[0], 6))
    return [factor for factor in factors if abs(factor) != 1]


def _all_transforms(env: EnvBase) -> Iterator[Transform]:
    """Yield the transforms from the outermost to those of the first worker."""
    while isinstance(env, TransformedEnv):
        yield from transforms_of(env)
        env = env.base_env
    if isinstance(env, BatchedEnvBase):
        for worker in worker_envs(env)[:1]:
            yield from _all_transforms(worker)


def rewards_in_environment(subject: Subject) -> Found:
    """Look for several transforms of the environment that scale rewards."""
    factors = _reward_factors(subject)
    if len(factors) > 1:
        yield Evidence(
            "scale-differs",
            f"rewards are multiplied by {' and by '.join(f'{f:.3g}' for f in factors)} in the environment",
            "warning",
            "keep one RewardScaling: of the workers, or around them",
        )


def rewards_in_loss(subject: Subject) -> Found:
    """Measure by how much the loss multiplies rewards, with networks whose values are all 0."""
    factors = _reward_factors(subject)
    if not factors:
        raise Skip("the environment does not scale rewards")
    probe = subject.probe
    reward = probe.batch.get(probe.reward, None)
    indices = max(subject.slices, key=len)
    if probe.kind != "written" or reward is None or len(indices) < 2:
        raise Skip("the loss writes no errors of single steps")
    loss, step = copy_part(subject.loss), indices[len(indices) // 2]
    make_constant(loss, 0.0)
    found = []
    for value in (1.0, 2.0):
        only = torch.zeros_like(reward)
        only.reshape(-1)[step] = value
        errors = LossProbe.errors_of(loss, probe.batch.clone().set(probe.reward, only))
        assert errors is not None  # the kind is "written"
        found.append(float(errors[step]))
    if found[0] <= 0 or min(abs(found[1] / found[0] - power) for power in (2, 4)) > 0.01:
        raise Skip("the errors do not grow with the rewards, or with their squares")
    squared = found[1] / found[0] > 3
    size = math.sqrt(found[0]) if squared else found[0]
    half = math.sqrt(2) if squared else 1.0  # an error may be half of a square
    if min(abs(size - 1), abs(size * half - 1)) > 0.1:
        yield Evidence(
            "scale-differs",
            f"rewards are multiplied by {math.prod(factors):.3g} in the environment and by {size:.3g} in "
            f"{name_of(subject.loss)}",
            "warning",
            f"keep RewardScaling in the environment, and remove the factor from {name_of(subject.loss)}",
        )


class FirstInput(NamedTuple):
    """What the first layer with weights reads.

    Attributes:
        layer: its name and shape.
        largest: absolute value, of all calls.
    """

    layer: str
    largest: float


def _first_input(modules: Iterable[nn.Module], run: Callable[[], Any]) -> FirstInput | None:
    """Return what the first layer reads that ``run`` calls, in all calls: a loss may go step by step."""
    calls: list[tuple[nn.Module, float]] = []

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].numel():
            calls.append((layer, float(inputs[0].abs().max())))

    with ExitStack() as stack:
        for layer in {id(m): m for module in modules for m in module.modules()}.values():
            if isinstance(layer, LAYERS):
                stack.callback(layer.register_forward_pre_hook(look).remove)
        run()
    if not calls:
        return None
    first = calls[0][0]
    shape = list(next(first.parameters()).shape)
    return FirstInput(f"{name_of(first)} {shape}", max(largest for layer, largest in calls if layer is first))


def first_layer(subject: Subject) -> Found:
    """Compare what the first layer reads in the loss and where the policy acts, for the same steps."""
    steps = subject.batch.reshape(-1)
    acting = _acting(subject, steps)
    inside = [m for module in reachable_modules(subject.loss) for m in (module, *_hidden(module))]
    learning = _first_input(inside, lambda: subject.loss(subject.batch.clone()))
    if acting is None or learning is None or acting.layer != learning.layer:
        raise Skip("the policy and the loss call no layer with weights that is the same")
    large, small = max(acting.largest, learning.largest), min(acting.largest, learning.largest)
    if small > 0 and large / small > FAR:
        key = subject.policy_observations[0]
        yield Evidence(
            "scale-differs",
            f"{acting.layer} reads values up to {learning.largest:.3g} in {name_of(subject.loss)}, and up to "
            f"{acting.largest:.3g} where the policy acts on the same steps",
            None,
            f"scale {key!r} once, in the network, and not in the loss",
        )


def images_divided_again(subject: Subject) -> Found:
    """Look for images of numbers up to 1 that the network divides by 255 once more."""
    if len(keys := subject.policy_observations) != 1:
        raise Skip("the policy reads several observations")
    (key,) = keys
    first = subject.steps[0].before
    shown = first.get(key, None)
    if shown is None or not is_image(shown, first.ndim):
        raise Skip("the policy reads no image")
    steps = subject.policy_inputs(min(STEPS, len(subject.steps)))
    largest, acting = float(steps.get(key).double().abs().max()), _acting(subject, steps)
    if acting is None or not shown.is_floating_point() or largest > 1.01 or acting.largest == 0:
        return
    if abs(largest / acting.largest / BRIGHTEST - 1) < 0.02:
        yield (
            "scale-differs",
            f"{key!r} is a number up to {largest:.3g}, and the network divides it by {BRIGHTEST} again: "
            f"{acting.layer} reads values up to {acting.largest:.2g}",
            None,
            f"divide {key!r} once: in the environment (ToTensorImage does) or in the network",
        )


def _unlinked(subject: Subject, steps: TensorDictBase) -> TensorDictBase:
    """Return what the policy reads in ``steps``, as steps that belong to no episode."""
    keys = [k for k in subject.policy.in_keys if steps.get(k, None) is not None and k != subject.action_key]
    inputs = steps.select(*keys).clone()
    inputs["is_init"] = torch.zeros(len(inputs), 1, dtype=torch.bool)
    return inputs


def _acting(subject: Subject, steps: TensorDictBase) -> FirstInput | None:
    inputs = _unlinked(subject, steps)
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        return _first_input([subject.policy], lambda: subject.policy(inputs))


def _hidden(module: nn.Module) -> list[nn.Module]:
    """Return the networks that TorchRL's losses keep out of their modules."""
    return [part for part in vars(module).values() if isinstance(part, nn.Module)]


def _outputs_differ(subject: Subject, raw: TensorDictBase, batch: TensorDictBase, key: NestedKey) -> bool:
    """Return whether the policy's outputs differ for the two versions of an observation."""
    steps = _unlinked(subject, raw[:STEPS])
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        before = subject.policy_outputs(steps)
        after = subject.policy_outputs(steps.clone().set(key, batch.get(key)[:STEPS]))
    return bool((after - before).abs().max() > 1e-4 * before.abs().max())
