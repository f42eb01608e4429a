"""1,000 generated configurations: each makes an update, or is refused in one line that says what is wrong.

Values in range, and values just outside, come from the JSON schemas of the settings, so a new number or
switch is tried without a change here. What would take long is capped here, not there.
"""

import json
import math
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from configurations import FIELDS, fit_layers, nested, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recdqn import Config, train
from recdqn.errors import ConfigError
from recdqn.fields import parts

# The largest values that are drawn where larger ones would only take longer.
CAPS = {
    "threads": 1,
    "env.num_envs": 5,
    "env.image_size": 48,
    "policy.hidden_size": 5,
    "policy.features": 5,
    "policy.channels": 3,
    "policy.kernels": 3,  # so that two layers fit into the smallest picture
    "policy.strides": 2,
    "policy.head": 5,
    "replay.capacity": 200,
    "replay.slices": 5,
    "train.warmup_frames": 15,
    "train.updates": 2,
    "train.eval_episodes": 2,
    "train.solved_episodes": 2,
}
PARTS = parts(Config)
# Values that fit their own range and not the others'; those further down read what those above have changed.
SEEN = {"env.observation": "masked", "env.visible": (0, 2)}
MISFITS = {
    "policy.kernels": lambda now: {"policy.kernels": (1, 1, 1)},
    "policy.strides": lambda now: {"policy.strides": (1, 1, 1)},
    "policy.eps_end": lambda now: {"policy.eps_start": 0.25, "policy.eps_end": 0.5},
    "env.loc": lambda now: SEEN | {"env.loc": (0.0, 0.0, 0.0)},
    "env.scale": lambda now: SEEN | {"env.scale": (1.0, 1.0, 1.0)},
    "train.frames_per_batch": lambda now: {"env.num_envs": 2, "train.frames_per_batch": 3},
    "env.num_envs": lambda now: {"env.num_envs": 3, "scale.actors": 2},
    "train.total_frames": lambda now: {"train.warmup_frames": 50, "train.total_frames": 49},
    "replay.capacity": lambda now: {"replay.capacity": now["train.frames_per_batch"] - 1},
    "replay.slice_len": lambda now: {"replay.slice_len": 11, "replay.slices": 10_000},
    "loss.burn_in": lambda now: {"loss.burn_in": now.get("replay.slice_len", 20)},
}


# What would need more than this machine, or a process for each environment.
FIXED = {"device": "cpu", "env.id": "CartPole-v1", "env.workers": False}
FIXED |= {"env.entries": ("all",), "env.arrays": ("ask",), "env.mask": "none"}  # of other environments
FIXED |= {"scale.actors": 0}  # tests/package/test_scale.py has actors


def capped(name, schema):
    if "items" in schema:
        return schema | {"items": capped(name, schema["items"])}
    return schema | {"maximum": min(schema["maximum"], CAPS[name])} if name in CAPS else schema


def right(name):
    """Values of a setting that are in its range, and train quickly here."""
    if name in FIXED:
        return st.just(FIXED[name])
    if name == "env.observation":
        return st.sampled_from(["masked"] * 18 + ["whole"] * 3 + ["pixels"] * 2)  # pictures are slow
    if name == "env.visible":
        return st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
    most = 1 if name in ("env.loc", "env.scale") else 2  # one entry fits every observation
    return values(capped(name, FIELDS[name]), most)


def wrong(schema):
    """Values of a setting that are out of its range, or of another type."""
    other = [None, {1, 2}, b"1", math.nan, object()]
    if "enum" in schema:
        return st.sampled_from([*other, "", "x", 1, (schema["enum"][0],)])
    if schema["type"] == "array":
        good, bad = values(schema["items"]), wrong(schema["items"])
        some_bad = st.tuples(good, bad) | st.tuples(bad, good) | st.tuples(bad)
        too_many = (schema["items"].get("minimum", "x"),) * (schema["maxItems"] + 1)
        return some_bad | st.sampled_from([*other, (), "12", too_many])
    if schema["type"] == "boolean":
        return st.sampled_from([*other, 0, 1, "True", ()])
    if schema["type"] == "string":
        return st.sampled_from([*other, "", "two\nlines", "x" * (schema["maxLength"] + 1), 1, True, ("cpu",)])
    low, high = schema["minimum"], schema["maximum"]
    other += ["1", True, False, math.inf, -math.inf, low - 1, high + 1, 10**5_000, -(10**5_000), 1j, (low,)]
    if schema["type"] == "number":
        return st.sampled_from([*other, math.nextafter(low, -math.inf), math.nextafter(high, math.inf)])
    return st.sampled_from([*other, float(low), low + 0.5, *([low + 1] if "multipleOf" in schema else [])])


@st.composite
def in_range(draw):
    """Settings by dotted name, each in its range, and all of them fitting together."""
    needed = (
        CAPS.keys()
        | {"env.observation", "env.loc", "env.scale"}
        | draw(st.sets(st.sampled_from(sorted(FIELDS))))
    )
    values = fit_layers({name: draw(right(name)) for name in FIELDS if name in needed})
    if "replay.period" in values:
        values["replay.period"] = min(values["replay.period"], values.get("replay.slice_len", 20))
    if "loss.burn_in" in values:
        values["loss.burn_in"] = min(values["loss.burn_in"], values.get("replay.slice_len", 20) - 1)

    envs, warmup = values["env.num_envs"], values["train.warmup_frames"]
    batch = envs * draw(st.integers(1 if envs == 1 else 2, 4))
    frames = math.ceil(max(warmup, 1) / batch) * batch  # up to the first update
    values |= {
        "train.frames_per_batch": batch,
        "train.total_frames": frames + draw(st.integers(0, batch - 1)),
    }
    values["replay.capacity"] = max(values["replay.capacity"], batch)
    return values


@st.composite
def out_of_range(draw):
    """Settings by dotted name, and which of them are out of range, of another type or unknown."""
    values = draw(in_range())
    named = draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4))
    values |= {name: draw(wrong(FIELDS[name])) for name in named}
    unknown = draw(st.sets(st.sampled_from(["colour", "train.update", "env.", "loss.self"]), max_size=2))
    return values | dict.fromkeys(unknown, 1), named | unknown


@st.composite
def misfitting(draw):
    """Settings by dotted name, each in its range, and which of them do not fit the others."""
    values = draw(in_range())
    named = draw(st.sets(st.sampled_from(list(MISFITS)), min_size=1, max_size=4))
    for name, change in MISFITS.items():
        values |= change(values) if name in named else {}
    return values, named


def from_file(values):
    return Config.from_dict(
        {
            part: {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()}
            if isinstance(value, dict)
            else value
            for part, value in nested(values).items()
        }
    )


def part_by_part(values):
    """Build each part by itself; each then names what is wrong in it."""
    parts, errors = nested(values), []
    for name in PARTS:
        try:
            parts[name] = PARTS[name](**parts.get(name, {}))
        except ConfigError as error:
            del parts[name]
            errors.append(str(error))
    try:
        cfg = Config(**parts)
    except ConfigError as error:
        errors.append(str(error))
    if errors:
        raise ConfigError("; ".join(errors))
    return cfg


WAYS = {
    "whole": lambda values: Config(**nested(values)),
    "replaced": lambda values: Config.preset("masked-cartpole").replace(**nested(values)),
    "file": from_file,
    "parts": part_by_part,
}


def generated(examples):
    # Derandomised: the same ones every time, so that CI does not fail on what a change has not touched.
    return settings(
        max_examples=examples, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )


def check_refusal(way, values, named):
    """Training must say in one line what is wrong with each of ``named``, and leave no file behind."""
    with tempfile.TemporaryDirectory() as folder, mock.patch("tempfile.tempdir", folder):
        with pytest.raises(ConfigError) as error:
            train(WAYS[way](values), out=Path(folder, "run"), progress=False)
        assert os.listdir(folder) == []
    assert len(str(error.value).splitlines()) == 1
    assert set(re.findall(r"(?:^|; )([\w.]+)(?:\[\d\])?=", str(error.value))) >= named


# TorchRL takes tau for something else where it is above a half.
@pytest.mark.filterwarnings("ignore:Found an eps value < 0.5:UserWarning")
@generated(250)
@given(in_range(), st.sampled_from(list(WAYS)))
def test_what_fits_makes_an_update(values, way):
    cfg = WAYS[way](values)
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    with tempfile.TemporaryDirectory() as folder, mock.patch("tempfile.tempdir", folder):
        run = train(cfg, progress=False)
        assert os.listdir(folder) == []
    assert run.metrics[-1]["updates"] >= 1 and math.isfinite(run.metrics[-1]["loss"])


@generated(500)
@given(out_of_range(), st.sampled_from(list(WAYS)))
def test_what_is_out_of_range_is_named(configuration, way):
    check_refusal(way, *configuration)


@generated(250)
@given(misfitting(), st.sampled_from([way for way in WAYS if way != "parts"]))  # parts know only themselves
def test_what_does_not_fit_together_is_named(configuration, way):
    check_refusal(way, *configuration)
