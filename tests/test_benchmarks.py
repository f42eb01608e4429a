"""Counts that keep the ratios of the benchmarks from slipping: encoded frames, copies, bytes; no seconds."""

import pytest
import torch

from benchmarks import classic, harness, pictures
from recdqn import Config, make_env

# --- the frame ------------------------------------------------------------------------------------------


def test_sides_take_turns_and_the_median_counts(monkeypatch):
    calls = []
    now = [0.0]  # seconds; a call puts the clock forward by what it takes

    def side(name, seconds):
        def call():
            calls.append(name)
            now[0] += seconds[min(calls.count(name), len(seconds)) - 1]

        return call

    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    sides = {"a": side("a", [100, 1, 50, 3]), "b": side("b", [7])}
    assert harness.seconds_by_turns(sides, repeats=3) == {"a": 3, "b": 7}  # the first call is not timed
    assert calls == ["a", "b"] * 4
    assert harness.seconds_by_turns({"b": side("b", [7])}, repeats=2, warmup=0) == {"b": 7}


def test_the_table():
    rows = {
        "fast": harness.Row(
            "frames", 12_345.6, 1_000.0, "the old one", "frames/s", 12.3456, "at least 10", True
        ),
        "alone": harness.Row("memory", 2.5, None, "", "GB", None, "at most 2 GB", False),
    }
    assert harness.table(rows) == (
        "| row | what | ours | against | ratio | must reach | met |\n"
        "|---|---|---|---|---|---|---|\n"
        "| fast | frames | 12,346 frames/s | the old one: 1,000 frames/s | 12.3 | at least 10 | yes |\n"
        "| alone | memory | 2.5 GB |  |  | at most 2 GB | no |"
    )


# --- pictures -------------------------------------------------------------------------------------------


def test_the_picture_is_the_classic_one():
    ours, other = pictures.same_states(60)
    assert ours.shape == other.shape == (60, 1, 84, 84)
    assert other.max() > 254 and other.min() < 60  # white, with a black cart
    assert (ours - other).abs().mean() <= 3
    # The limit means something: the picture of the step before is no closer than ours has to be.
    moved = (other[10:] - other[:-10]).abs().mean()
    assert (ours[10:] - other[10:]).abs().mean() < moved


def test_bytes_of_a_stored_picture_transition():
    """Counted by hand: 4 bytes a float32, 8 an int64, 1 a bool."""
    picture, hidden = 84 * 84 * 4, 64 * 4
    flags = dict.fromkeys(["done", "terminated", "truncated", "is_init"], 1)
    step = {"pixels": picture, "step_count": 8, "recurrent_state_h": hidden, "recurrent_state_c": hidden}
    step |= flags
    values = {"action": 2 * 8, "action_value": 2 * 4, "chosen_action_value": 4}
    ours = step | {f"next.{name}": size for name, size in step.items()} | values
    ours |= {"next.reward": 4, "collector.traj_ids": 8, "index": 8, "embed": 32 * 7 * 7 * 4, "memory": hidden}
    assert pictures.our_entries() == ours
    assert sum(ours.values()) == 64_072


def test_bytes_of_a_classic_transition():
    picture, hidden = 84 * 84 * 4, 128 * 4
    flags = dict.fromkeys(["done", "terminated", "truncated", "is_init"], 1)
    step = {"pixels": picture, "step_count": 8, "recurrent_state_h": hidden, "recurrent_state_c": hidden}
    step |= flags
    values = {"action": 2 * 8, "action_value": 2 * 4, "chosen_action_value": 4}
    stored = step | {f"next.{name}": size for name, size in step.items()} | values
    stored |= {"next.reward": 4, "collector.traj_ids": 8, "index": 8, "embed": hidden}
    assert pictures.classic_entries() == stored
    assert sum(stored.values()) == 59_080


def test_every_frame_of_a_batch_passes_each_network_once():
    """Ours reads o_0 .. o_T of each slice, filled up to the longest; the classic loss o_t and its next."""
    cfg = Config.preset("pixel-cartpole").replace(replay={"slices": 4, "slice_len": 5})
    loss, (batch,) = pictures.our_learner(cfg, frames=64, batches=1)
    convolutions = loss.value_network.module[0].module
    longest = loss.steps(batch).column.max() + 1
    assert pictures.encoded_frames(convolutions, lambda: loss(batch)) == 2 * 4 * (longest + 1) <= 48

    loss, batch = pictures.classic_learner(rows=1)
    convolutions = loss.value_network.module[0].module
    assert pictures.encoded_frames(convolutions, lambda: loss(batch[:, :4].clone())) == 2 * 4


@pytest.mark.parametrize(("name", "most"), [("ours", 6), ("classic", 6)])
def test_full_size_copies_of_a_step(name, most):
    """Tensors as large as the 600x400 picture that PyTorch writes for one step of one env."""
    env = classic.make_env(frames=2) if name == "classic" else make_env(pictures._config(num_envs=1).env)
    now = env.reset()
    now["action"] = torch.tensor([0, 1])
    with pictures.LargeTensors(600 * 400) as large:
        env.step(now)
    env.close()
    assert large.count <= most
