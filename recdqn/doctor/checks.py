"""The doctor's checks: each runs copies of the parts and tells what it saw (the field guide).

A check yields a code of ``BUGS`` and a message for every bug that it proves, and raises ``Skip`` where there
is nothing to look at.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torchrl.envs import Compose, TransformedEnv, UnaryTransform
from torchrl.envs.common import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode
from torchrl.objectives.utils import TargetNetUpdater

from recdqn.doctor.patient import STEPS, Moment, Patient, Skip, change, is_real, neighbours

Found = Iterator[tuple[str, str]]

LEAK = 1e-5  # a smaller change, relative to the size of what changes, is rounding
JUMP = 5  # times the most that an observation bends in the walk
FEW = 30  # steps of the walk are too few to say what is possible
COPIES = 64  # of one step, to see whether the policy always acts the same on it
SHOWN = 0.9999  # squared correlation of a number with itself, scaled and shifted
TOLD = 0.5  # share of what is unknown about a hidden number that an entry must tell to be called a leak
VECTOR, PICTURE = 64, 784  # numbers in the largest entry that is read as a vector, the smallest as a picture
RAW = "doctor_raw"  # where the masked check keeps what the base environment returned


# --- the environment ------------------------------------------------------------------------------


def statistics(patient: Patient) -> Found:
    """Reset the environment; where that fails, look for transforms that wait for their numbers."""
    try:
        patient.env.reset()
    except Skip:
        raise
    except Exception:
        for transform in _transforms(patient.env):
            if any(isinstance(b, UninitializedBuffer) for b in transform.buffers(recurse=False)):
                keys = ", ".join(map(repr, transform.in_keys))
                yield "norm-uninitialised", f"{_name(transform)} of {keys} has no statistics: reset() fails"


def picture_statistics(patient: Patient) -> Found:
    """Show every transform an even picture; what comes out must be even, or vary both ways."""
    td = patient.walk[0].before
    for transform in _transforms(patient.env):
        for key in transform.in_keys:
            picture = td.get(key, None)
            if picture is None or not _is_picture(picture, td.ndim) or not picture.is_floating_point():
                continue
            try:
                out = transform._apply_transform(torch.full_like(picture, 0.5))
            except Exception:  # this transform reads pictures of another kind
                continue
            if out.shape != picture.shape:
                continue
            rows, columns = (float((out.amax(dim) - out.amin(dim)).abs().max()) for dim in (-2, -1))
            if (rows > 1e-6) != (columns > 1e-6):
                which = "column" if columns > rows else "row"
                yield (
                    "norm-per-column",
                    f"{_name(transform)} makes an even picture in {key!r} vary by {max(rows, columns):.2g} "
                    f"from {which} to {which}: it has a pair of numbers for each {which}",
                )


def init_marks(patient: Patient) -> Found:
    """Compare ``"is_init"`` with where episodes began."""
    walk = patient.walk
    if walk[0].before.get("is_init", None) is None:
        yield "no-init-tracker", "env.reset() returns no 'is_init'"
        return
    began = torch.ones_like(walk[0].ended)
    missed = begun = false = others = 0
    for moment in walk:
        marked = moment.before["is_init"].reshape(began.shape)
        missed, begun = missed + int((began & ~marked).sum()), begun + int(began.sum())
        false, others = false + int((marked & ~began).sum()), others + int((~began).sum())
        began = moment.ended
    if missed:
        yield "init-never-true", f"'is_init' is false at {missed} of {begun} first steps of episodes"
    if false:
        yield "init-false-start", f"'is_init' is true at {false} of {others} steps inside episodes"


def masked(patient: Patient) -> Found:
    """Read the base environment's numbers out of what the policy sees."""
    env = patient.env
    if not isinstance(env, TransformedEnv):
        raise Skip("the environment has no transforms that hide anything")
    spec, dims = env.base_env.observation_spec, env.ndim
    vectors = [k for k in spec.keys(True, True) if spec[k].dtype.is_floating_point]
    vectors = [k for k in vectors if spec[k].shape[dims:].numel() <= VECTOR]
    if not vectors:
        raise Skip("the base environment returns no vector")
    note = UnaryTransform(in_keys=vectors[:1], out_keys=[RAW], fn=torch.clone)
    noted = TransformedEnv(env.base_env, Compose(note, *(t.clone() for t in _transforms(env))))
    data = noted.rollout(max(50, STEPS // max(1, env.numel())), break_when_any_done=False).reshape(-1)
    truth = data[RAW].reshape(len(data), -1).double()

    entries = [k for k in noted.observation_spec.keys(True, True) if k not in (RAW, "is_init", "step_count")]
    if patient.policy is not None:
        entries = [k for k in entries if k in patient.observed]
    values = {k: data[k].reshape(len(data), -1) for k in entries}
    values = {k: v.double() for k, v in values.items() if v.is_floating_point() and v.shape[-1] <= VECTOR}
    for key, value in values.items():
        shown = _squared_correlation(value, truth).amax(0) > SHOWN  # true numbers that are columns here
        if not shown.any() or shown.all():
            continue
        expected = _explained(truth[:, shown], truth)  # what the shown numbers say about the others
        for other in values:
            share = _explained(values[other], truth)
            for i in (~shown).nonzero().flatten().tolist():
                if share[i] - expected[i] > TOLD * (1 - expected[i]):
                    teller = "its other numbers tell" if other == key else f"{other!r} tells"
                    yield (
                        "masked-leak",
                        f"number {i} of the base's {vectors[0]!r} is not in {key!r}, and {teller} it: "
                        f"R2 {share[i]:.2f}, where the base's shown numbers give {expected[i]:.2f}",
                    )


# --- the environment and the policy ------------------------------------------------------------------


def state_flow(patient: Patient) -> Found:
    """Follow each recurrent state from where it is written to where it is read."""
    if not patient.pairs:
        raise Skip("the policy has no recurrent state")
    walk = patient.walk
    first, fits = walk[0].before, True
    for read, write in patient.pairs:
        shape, value = _written_shape(patient, first, write), first.get(read, None)
        if value is None:
            alike = [k for k in first.keys(True, True) if first[k].shape == shape]
            if alike := [k for k in alike if k not in patient.policy.in_keys]:
                fits, names = False, ", ".join(map(repr, alike))
                yield "primer-mismatch", f"the policy reads {read!r}; a reset gives {names}, read by nobody"
        elif shape is not None and value.shape != shape:
            fits = False
            yield (
                "primer-mismatch",
                f"{read!r} has shape {list(value.shape)} after a reset, and the policy writes {list(shape)}",
            )
    if not fits:
        raise Skip("the primer does not fit")
    if patient.trouble is not None:
        raise Skip(f"the policy does not run in this environment ({patient.trouble})")
    for read, write in patient.pairs:
        yield from _one_state(walk, read, write)


def _one_state(walk: list[Moment], read: NestedKey, write: NestedKey) -> Found:
    """Follow one state through the walk."""
    lost = stale = kept = overwritten = 0
    initial = walk[0].before.get(read, None)
    filled = 0.0 if initial is None else float(initial.abs().max())  # what a reset puts there
    for moment in walk:
        written, arrived = moment.after[write], moment.following.get(read, None)
        if write == read and read in moment.before.keys(True):
            overwritten += int((moment.before[read] != written).any())
        if arrived is None:
            lost += 1
            continue
        dims = moment.ended.ndim
        moved = (arrived != written).flatten(dims).any(-1)
        stale += int((moved & ~moment.ended).any())
        carried = moment.ended & ~moved & written.flatten(dims).any(-1)
        kept += int(carried.sum())
        if (fresh := moment.ended & ~carried).any():
            filled = max(filled, float(arrived[fresh].abs().max()))
    steps = f"{len(walk)} steps"
    if kept:
        yield "state-over-episode", f"{kept} episodes began with the {read!r} at which the last one ended"
    elif filled:
        yield (
            "primer-mismatch",
            f"{read!r} is up to {filled:.2g} after a reset: the policy starts episodes from zero, and the "
            "loss would start them from this",
        )
    if overwritten:
        yield "state-overwritten", f"the policy reads {read!r} and writes its new state over it"
    elif unravel_key(write) != unravel_key(("next", read)) and (lost or stale):
        yield (
            "out-key-without-next",
            f"the policy reads {read!r} and writes {write!r}: nothing moves it there",
        )
    elif lost:
        yield "no-primer", f"the policy wrote {write!r}, and {read!r} was missing after {lost} of {steps}"
    elif stale:
        yield (
            "state-not-carried",
            f"{read!r} was not what the policy wrote in {write!r} after {stale} of {steps}",
        )


def mode(patient: Patient) -> Found:
    """Give the policy two steps that have nothing to do with each other, as collection does."""
    if not patient.pairs:
        raise Skip("the policy has no recurrent state")
    rows = patient.readable(2)
    other = change(rows, torch.tensor([True, False]), patient.observed)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        before, after = patient.outputs(rows), patient.outputs(other)
    moved = (after - before)[1].abs().max()
    if moved > LEAK * before.abs().max():
        yield (
            "recurrent-mode-on",
            "two steps of different episodes, outside of any loss: changing the first moved what the policy "
            f"puts out for the second by {moved:.2g}",
        )


def evaluation(patient: Patient) -> Found:
    """Switch exploration off, and give the policy the same step many times."""
    policy = copy.deepcopy(patient.policy)
    for name, value in policy.named_buffers():
        if name.split(".")[-1] == "eps":  # explore as much as it can
            value.fill_(1.0)
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        actions = policy(patient.readable(1).expand(COPIES).clone())["action"].reshape(COPIES, -1)
    if (actions != actions[0]).any():
        yield (
            "explores-in-evaluation",
            f"with exploration off (DETERMINISTIC), the policy took {len(actions.unique(dim=0))} different "
            f"actions in {COPIES} copies of one step",
        )


def finite(patient: Patient) -> Found:
    """Look for numbers that are not finite in what is trained."""
    for part in ("policy", "loss"):
        module = patient.given.get(part)
        for name, value in module.named_parameters() if isinstance(module, nn.Module) else ():
            if not isinstance(value, UninitializedParameter) and not value.isfinite().all():
                yield (
                    "not-finite",
                    f"{part}: {int((~value.isfinite()).sum())} numbers of {name} are not finite",
                )


def annealing(patient: Patient) -> Found:
    """Step a copy of the exploration module, and compare its share of random actions with the data stored."""
    modules = [m for m in patient.policy.modules() if hasattr(m, "eps_init") and hasattr(m, "step")]
    if not modules:
        raise Skip("the policy has no exploration with eps and step()")
    stored = 0  # environment steps; the buffer counts its first dimension
    if patient.has("buffer"):
        stored = patient.buffer.write_count * patient.buffer.storage.shape[1:].numel()
    for module in modules:
        first, now = float(module.eps_init), float(module.eps)
        frames = int(module.annealing_num_steps)
        stepped = copy.deepcopy(module)
        stepped.step(min(frames, 1_000))
        if float(stepped.eps) == now == first > 0.5:
            yield "exploration-frozen", f"{_name(module)}: eps is {now:g}, and step() does not lower it"
        elif now == first > float(stepped.eps) and stored >= frames / 10:
            yield (
                "exploration-frozen",
                f"{_name(module)}: eps is still {now:g} after {stored:,} stored steps of {frames:,}",
            )


# --- the buffer and its batches ------------------------------------------------------------------------


def chain(patient: Patient) -> Found:
    """Does every step begin where the one before it ended, but at marked places?"""
    pairs = broken = cursor = apart_in_storage = unmarked = 0
    for batch in patient.batches:
        flat, apart = batch.reshape(-1), _apart(patient, batch)
        done, init = flat["next", "done"].reshape(-1)[:-1], _init(flat)[1:]
        loose = apart & ~init & ~done
        pairs += int((neighbours(batch) & ~init & ~done).sum())
        broken += int(loose.sum())
        stored_apart, at_cursor = _places(patient, batch)
        apart_in_storage += int((loose & stored_apart).sum())
        cursor += int((loose & at_cursor).sum())
        unmarked += int((apart & done & ~init).sum())
    if broken > pairs / 2:
        yield "unrelated-transitions", f"{broken} of {pairs} steps do not begin where the one before ended"
        return
    if cursor:
        yield "slice-over-cursor", f"{cursor} of {pairs} steps follow the newest step with the oldest one"
    if (straddling := broken - cursor - apart_in_storage) > 0:
        yield (
            "slice-over-episodes",
            f"{straddling} of {pairs} steps do not begin where the one before ended, without a mark",
        )
    unmarked += apart_in_storage
    if unmarked:
        yield "is-init-lost", f"'is_init' is false at the start of {unmarked} slices"


def _init(flat: TensorDictBase) -> Tensor:
    """The marks of a flat batch, ``[N]``."""
    init = flat.get("is_init", None)
    return torch.zeros(len(flat), dtype=torch.bool) if init is None else init.reshape(-1)


def _apart(patient: Patient, batch: TensorDictBase) -> Tensor:
    """Which neighbours ``[N - 1]`` are not the end of one step and the beginning of the next."""
    keys = [k for k in patient.world_keys if batch.get(unravel_key(("next", k)), None) is not None]
    if not keys or batch.numel() < 2:
        raise Skip("the batch holds no next observation to compare with")
    flat, apart = batch.reshape(-1), torch.zeros(batch.numel() - 1, dtype=torch.bool)
    for key in keys:
        apart |= (flat[key][1:] != flat["next"].get(key)[:-1]).flatten(1).any(-1)
    return apart & neighbours(batch)


def _places(patient: Patient, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
    """Which neighbours ``[N - 1]`` are none in the buffer, and which lie at its write cursor."""
    index = batch.get("index", None)
    if "buffer" not in patient.given or index is None:
        return (torch.zeros(batch.numel() - 1, dtype=torch.bool),) * 2
    index, buffer = index.reshape(batch.numel(), -1), patient.buffer  # time first
    later = (index[1:, 0] - index[:-1, 0]) % buffer.storage.shape[0]
    together = (later == 1) | ((later == 0) & (batch.ndim > 1))  # the steps of a stored row share its place
    together &= (index[1:, 1:] == index[:-1, 1:]).all(-1)
    return ~together, together & (later == 1) & (index[1:, 0] == buffer.writer._cursor)


def jumps(patient: Patient) -> Found:
    """Compare how the stored observations bend with how they bend in the environment."""
    for key in patient.world_keys:
        seen = [moment.before.get(key, None) for moment in patient.walk]
        if (
            seen[0] is None
            or not seen[0].is_floating_point()
            or _is_picture(seen[0], patient.walk[0].before.ndim)
        ):
            continue
        path = torch.stack(seen)  # [steps, *batch, entries]
        inside = ~torch.stack([m.ended for m in patient.walk])
        usual = path.diff(n=2, dim=0)[inside[:-2] & inside[1:-1]].abs()
        if len(usual) < FEW:
            raise Skip("the walk was too short to tell what is possible")
        most = usual.amax(0)
        most[most == 0] = torch.inf  # the walk says nothing about numbers that never changed
        far = count = 0
        for batch in patient.batches:
            flat = batch.reshape(-1)
            here, after = flat[key], flat["next"].get(key, None)
            if after is None:
                continue
            inner = neighbours(batch) & ~_apart(patient, batch) & ~_init(flat)[1:]
            bend = (after[1:] - 2 * here[1:] + here[:-1]).abs()[inner]
            far += int((bend > JUMP * most + 1e-6).flatten(1).any(-1).sum())
            count += len(bend)
        if far:
            yield (
                "impossible-steps",
                f"{key!r} jumps in {far} of {count} sampled steps: more than {JUMP} times as abruptly as in "
                f"{len(usual)} steps of the environment",
            )


def lost(patient: Patient) -> Found:
    """Are the marks and the states there, and are they those of the steps?"""
    if patient.batch.get("is_init", None) is None:
        yield "is-init-lost", "the batch has no 'is_init'"
    for key in patient.states:
        values = [batch.get(key, None) for batch in patient.batches]
        if any(value is None for value in values):
            yield "state-lost", f"the batch has no {key!r}"
        elif not any(value.any() for value in values) and max(map(len, patient.slices)) > 1:
            yield "state-lost", f"{key!r} is zero at every step of {len(values)} batches"
        else:
            yield from _stored_state(patient, key)


def _stored_state(patient: Patient, key: NestedKey) -> Found:
    """Compare a state with what the step before wrote, and with zero where episodes begin."""
    stale = pairs = kept = begun = 0
    for batch in patient.batches:
        flat = batch.reshape(-1)
        count, written = flat.get("step_count", None), flat.get(unravel_key(("next", key)), None)
        if count is not None:
            begins = (count.reshape(-1) == 0) & is_real(batch)
            kept += int(flat[key][begins].flatten(1).any(-1).sum())
            begun += int(begins.sum())
        if written is not None:
            inside = neighbours(batch) & ~_apart(patient, batch) & ~_init(flat)[1:]
            inside &= ~flat["next", "done"].reshape(-1)[:-1]
            far = ((flat[key][1:] - written[:-1]).abs() > 1e-3).flatten(1).any(-1)
            stale, pairs = stale + int((inside & far).sum()), pairs + int(inside.sum())
    if stale > pairs / 10:
        yield (
            "state-not-carried",
            f"stored {key!r}: not what the step before wrote, at {stale} of {pairs} steps",
        )
    if kept:
        yield "state-over-episode", f"stored {key!r}: not zero at {kept} of {begun} first steps of episodes"


def pictures(patient: Patient) -> Found:
    """Count the bytes that pictures take in the storage."""
    stored = getattr(patient.buffer.storage, "_storage", None) if "buffer" in patient.given else patient.batch
    if isinstance(stored, list) and stored:
        stored = stored[0]
    if not isinstance(stored, TensorDictBase):
        raise Skip("the storage is not made of tensors")
    steps = max(1, stored.numel())
    for key in map(unravel_key, stored.keys(True, True)):
        value = stored.get(key)
        if not isinstance(value, Tensor) or not _is_picture(value, stored.ndim):
            continue
        bytes_ = f"{value.nbytes / steps:,.0f} bytes a step, {value.nbytes / 1e9:.2g} GB for {steps:,} steps"
        if value.is_floating_point():
            small = value.numel() / steps
            yield (
                "pixels-float32",
                f"{key!r} is {value.dtype}: {bytes_}; as uint8 it takes {small:,.0f} a step",
            )
        if key[0] == "next" and (root := unravel_key(key[1:])) in stored.keys(True):
            yield "pixels-twice", f"{key!r} is stored beside {root!r}: {bytes_} for the copy"


# --- the loss -------------------------------------------------------------------------------------------


def leak(patient: Patient) -> Found:
    """Change one slice, and look at the errors of the others."""
    slices = [places for places in patient.slices if len(places)]
    if len(slices) < 2:
        raise Skip("the batch has one slice only")
    for k in (0, len(slices) - 1):
        cause = torch.zeros(patient.batch.numel(), dtype=torch.bool)
        cause[slices[k]] = True
        moved, _ = patient.influence(cause, ~cause & is_real(patient.batch))
        if moved > LEAK:
            yield (
                "target-leak",
                f"{_name(patient.loss)}: changing slice {k} of {len(slices)} moved the errors of others by "
                f"up to {moved:.2g} of the mean error",
            )
            return


def loss_mode(patient: Patient) -> Found:
    """Change the first observation of every slice, and look at the errors of later steps."""
    longer = [places for places in patient.slices if len(places) > 1]
    if not longer:
        raise Skip("every slice of the batch has one step only")
    cause, effect = (torch.zeros(patient.batch.numel(), dtype=torch.bool) for _ in range(2))
    for places in longer:
        cause[places[0]] = True
        effect[places[1:]] = True
    moved, rounding = patient.influence(cause, effect)
    if moved <= rounding:
        yield (
            "recurrent-mode-off",
            f"{_name(patient.loss)}: changing the first observation of {len(longer)} slices "
            "moved no later error",
        )


def future(patient: Patient) -> Found:
    """Change the last observation of a slice, and look at what the policy puts out before it."""
    places = max(patient.slices, key=len)
    if len(places) < 2 or not patient.pairs:
        raise Skip("a recurrent policy and a slice of two steps are needed")
    keys = [key for key in patient.policy.in_keys if key != "action"]
    rows = patient.batch.reshape(-1)[places].select(*keys)
    step = torch.arange(len(rows))
    rows["is_init"] = (step == 0).unsqueeze(-1)
    with set_recurrent_mode(True), set_exploration_type(ExplorationType.DETERMINISTIC):
        before = patient.outputs(rows)
        after = patient.outputs(change(rows, step == len(rows) - 1, patient.observed))
    moved = (after - before)[:-1].abs().max()
    if moved > LEAK * before.abs().max():
        yield (
            "sees-future",
            f"changing the last observation of a slice moved earlier outputs by up to {moved:.2g}",
        )


def target(patient: Patient) -> Found:
    """Look where the target's numbers lie, and let the updater make a step."""
    loss = patient.given["loss"]
    if not {"delay_value", "delay_qvalue"} & getattr(loss, "__dict__", {}).keys():
        raise Skip("the loss has no target network of TorchRL's kind")
    for name in [n for n in dir(loss) if n.endswith("value_network_params") and n[0] in "vq"]:
        pairs = zip(_leaves(getattr(loss, name)), _leaves(getattr(loss, f"target_{name}")), strict=True)
        if any(a.data_ptr() == b.data_ptr() for a, b in pairs):
            yield (
                "target-is-online",
                f"{_name(loss)}: target_{name} and {name} are the same numbers in memory",
            )
        elif (why := _frozen(loss)) is not None:
            yield "target-frozen", f"{_name(loss)}: nothing moves target_{name}; {why}"


def _frozen(loss: nn.Module) -> str | None:
    """Why the target of ``loss`` never moves; ``None`` where it does or where that cannot be known."""
    for updater in gc.get_objects():
        if not issubclass(type(updater), TargetNetUpdater) or updater.loss_module is not loss:
            continue
        updater = copy.deepcopy(updater)
        before = [leaf.clone() for leaf in _leaves(updater._targets)]
        for leaf in _leaves(updater._sources):
            leaf.data.add_(1)
        for _ in range(getattr(updater, "value_network_update_interval", 0) + 2):
            updater.step()
        if _differ(before, _leaves(updater._targets)):
            return None
        return f"step() of its {_name(updater)} changes nothing"
    attached = all(getattr(loss, "_has_update_associated", {}).values())
    return None if attached else "no SoftUpdate or HardUpdate was made for it"


STATE_CODES = (
    "no-primer",
    "primer-mismatch",
    "out-key-without-next",
    "state-overwritten",
    "state-not-carried",
    "state-over-episode",
)

# Each with the parts it needs and the codes it can find.
CHECKS: list[tuple[Callable[[Patient], Found], tuple[str, ...], tuple[str, ...]]] = [
    (statistics, ("env",), ("norm-uninitialised",)),
    (picture_statistics, ("env",), ("norm-per-column",)),
    (init_marks, ("env",), ("no-init-tracker", "init-never-true", "init-false-start")),
    (masked, ("env",), ("masked-leak",)),
    (state_flow, ("env", "policy"), STATE_CODES),
    (mode, ("policy", "env or batch"), ("recurrent-mode-on",)),
    (evaluation, ("policy", "env or batch"), ("explores-in-evaluation",)),
    (annealing, ("policy",), ("exploration-frozen",)),
    (finite, ("policy or loss",), ("not-finite",)),
    (chain, ("batch",), ("unrelated-transitions", "slice-over-episodes", "slice-over-cursor")),
    (lost, ("batch",), ("is-init-lost", "state-lost")),
    (jumps, ("env", "batch"), ("impossible-steps",)),
    (pictures, ("batch",), ("pixels-float32", "pixels-twice")),
    (leak, ("loss", "batch"), ("target-leak",)),
    (loss_mode, ("loss", "batch"), ("recurrent-mode-off",)),
    (future, ("policy", "batch"), ("sees-future",)),
    (target, ("loss",), ("target-frozen", "target-is-online")),
]


# --- small things ---------------------------------------------------------------------------------------


def _written_shape(patient: Patient, td: TensorDictBase, write: NestedKey) -> torch.Size | None:
    """The shape in which the policy writes a state when it is given none."""
    td = td.exclude(*patient.states)
    td["is_init"] = torch.ones(*td.shape, 1, dtype=torch.bool)
    try:
        with set_recurrent_mode(False):
            return patient.policy(td)[write].shape
    except Exception:  # a module that must be given a state
        return None


def _squared_correlation(value: Tensor, truth: Tensor) -> Tensor:
    """Between every column of ``value`` and every true number, ``[columns, numbers]``."""
    value, truth = value - value.mean(0), truth - truth.mean(0)
    sizes = value.norm(dim=0)[:, None] * truth.norm(dim=0)
    return ((value.T @ truth) / sizes.clamp_min(1e-12)).square()


def _explained(value: Tensor, truth: Tensor) -> Tensor:
    """The share of each true number's variance that is linear in ``value``, ``[numbers]``."""
    value, truth = value - value.mean(0), truth - truth.mean(0)
    value = value[:, value.std(0) > 1e-9]
    rest = truth - value @ torch.linalg.lstsq(value, truth, driver="gelsd").solution
    return 1 - (rest.norm(dim=0) / truth.norm(dim=0).clamp_min(1e-12)).square()


def _transforms(env: EnvBase) -> list[nn.Module]:
    if not isinstance(env, TransformedEnv):
        return []
    return list(env.transform) if isinstance(env.transform, Compose) else [env.transform]


def _is_picture(value: Tensor, batch_dims: int) -> bool:
    return value.ndim - batch_dims >= 2 and value.shape[batch_dims:].numel() >= PICTURE


def _leaves(td: TensorDictBase) -> list[Tensor]:
    return [value for _, value in sorted(td.items(True, True), key=lambda item: str(item[0]))]


def _differ(before: Iterable[Tensor], after: Iterable[Tensor]) -> bool:
    return any(bool((a != b).any()) for a, b in zip(before, after, strict=True))


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", type(thing).__name__)
