"""The recordings of the two interactive pieces, against the weights, physics and algebra."""

import functools
import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictSequential
from torchrl.modules import LSTMModule

from recdqn import Config, add_primers, load_checkpoint, make_env, make_policy
from recdqn.book import player
from recdqn.book.player import EPISODE, PICTURES, STEPS, play, record_episode, sheet
from recdqn.book.recorded import RESULTS
from recdqn.book.stepper import record_steps
from recdqn.errors import UserError
from recdqn.evaluation import EVAL_SEED
from recdqn.flow import STAGES

RUN = RESULTS / "pixel-cartpole" / "seed-0"
H, C = "recurrent_state_h", "recurrent_state_c"
ROUNDED = 6e-5  # half of the last digit written, and float32


@pytest.fixture(scope="module")
def record():
    return json.loads(EPISODE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def steps():
    return json.loads(STEPS.read_text(encoding="utf-8"))["rollouts"]


@pytest.fixture(scope="module")
def saved():
    run = load_checkpoint(RUN)
    run.policy[0].module.dtype = torch.float32
    return run


@pytest.fixture(scope="module")
def read_again(record, saved):
    """The stored pictures through the weights: features, hidden states and Q-values, ``[steps, ...]``."""
    size, columns = record["size"], record["columns"]
    whole = iio.imread(PICTURES)
    places = [divmod(step, columns) for step in range(record["steps"])]
    cut = [whole[r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in places]
    features, memory, head = saved.policy[0].module, saved.policy[1].lstm, saved.policy[2].module
    with torch.no_grad():
        seen = features(torch.from_numpy(np.stack(cut))[:, None])
        lstm = torch.nn.LSTM(seen.shape[-1], memory.hidden_size, batch_first=True)
        lstm.load_state_dict(memory.state_dict())
        hidden = lstm(seen[None])[0][0]
        return seen.numpy(), hidden.numpy(), head(hidden).numpy()


def test_the_episode_is_whole_and_small(record):
    assert EPISODE.stat().st_size + PICTURES.stat().st_size < 300_000
    assert record["steps"] == 500 and record["size"] == 84
    for name in ("values", "actions", "hidden", "position", "angle"):
        assert len(record[name]) == record["steps"], name
    for name in ("truth", "readout", "single"):
        assert {key: len(line) for key, line in record[name].items()} == {"cart": 500, "pole": 500}
    assert len(record["units"]) == len(set(record["units"])) == len(record["hidden"][0]) == 8
    shown = record["steps"] + record["wiped"]["steps"]
    rows, columns = -(-shown // record["columns"]), record["columns"]
    assert iio.imread(PICTURES).shape == (rows * 84, columns * 84)
    made = record["made"]
    assert made["command"].endswith("player results/pixel-cartpole/seed-0")
    assert "dirty" not in made["commit"] and {"torch", "torchrl", "gymnasium"} <= made["versions"].keys()
    fitted, held_out = record["fitted"], record["held_out"]  # different episodes
    assert fitted["first_seed"] + fitted["episodes"] == held_out["first_seed"]
    assert held_out["first_seed"] <= record["seed"] < held_out["first_seed"] + held_out["episodes"]


def test_q_values_and_hidden_units_are_those_of_the_weights_on_the_stored_pictures(record, read_again):
    _, hidden, values = read_again
    np.testing.assert_allclose(record["values"], values, rtol=0, atol=ROUNDED)
    np.testing.assert_allclose(record["hidden"], hidden[:, record["units"]], rtol=0, atol=6e-4)
    assert record["actions"] == values.argmax(-1).tolist()


@pytest.mark.parametrize(("name", "of"), [("readout", "hidden"), ("single", "features")])
def test_the_lines_are_the_weights_on_what_the_policy_knew(record, read_again, name, of):
    inputs = read_again[0 if of == "features" else 1]
    weights = np.array(record["weights"][of])
    assert weights.shape == (record["inputs"][of] + 1, 2) == (inputs.shape[-1] + 1, 2)
    lines = inputs @ weights[:-1] + weights[-1]
    for k, key in enumerate(("cart", "pole")):
        np.testing.assert_allclose(record[name][key], lines[:, k], rtol=0, atol=1e-3)


def test_the_true_velocities_are_the_change_of_position_and_angle(record):
    for place, key in (("position", "cart"), ("angle", "pole")):
        change = np.diff(record[place]) / 0.02  # seconds of a step
        np.testing.assert_allclose(change, record["truth"][key][:-1], rtol=0, atol=0.01)


def test_memory_holds_the_velocity_and_the_single_picture_does_not(record):
    """Scored on the held-out episodes, and again on the one shown."""
    for key in ("cart", "pole"):
        truth = np.array(record["truth"][key])
        shown = {
            name: 1 - np.mean((truth - np.array(record[name][key])) ** 2) / truth.var()
            for name in ("readout", "single")
        }
        assert record["r2"]["hidden"][key] > 0.7 > 0.2 > record["r2"]["features"][key]
        assert shown["readout"] > 0.6 > 0.3 > shown["single"]


def test_a_fresh_run_of_the_weights_gives_the_recorded_steps(record, saved, read_again):
    played = play(saved.policy, saved.cfg.env, 2, record["seed"] - EVAL_SEED, steps=60)
    assert played.pictures.shape == (60, 84, 84) and played.truth.shape == (60, 2, 4)
    np.testing.assert_allclose(played.values[:, 0], record["values"][:60], rtol=0, atol=ROUNDED)
    np.testing.assert_allclose(played.truth[:, 0, 1], record["truth"]["cart"][:60], rtol=0, atol=ROUNDED)
    np.testing.assert_allclose(played.truth[:, 0, 3], record["truth"]["pole"][:60], rtol=0, atol=ROUNDED)
    np.testing.assert_allclose(played.features[:, 0], read_again[0][:60], rtol=0, atol=1e-4)
    np.testing.assert_allclose(played.hidden[:, 0], read_again[1][:60], rtol=0, atol=1e-4)
    assert np.array_equal(sheet(played.pictures[:50]), iio.imread(PICTURES)[: 2 * 84])
    assert played.running.all() and played.actions[:, 0].tolist() == record["actions"][:60]


def test_without_memory_the_same_start_ends_early(record, saved):
    """Wiping leaves what a zero state gives: the stored pictures, each as the first of a sequence."""
    wiped, size, columns = record["wiped"], record["size"], record["columns"]
    assert (
        wiped["steps"] < 0.2 * record["steps"] and abs(wiped["angle"][-1]) > 0.15
    )  # radians; it ends at 0.21
    for name in ("position", "angle"):
        assert wiped[name][0] == record[name][0]
    whole = iio.imread(PICTURES)
    places = [divmod(record["steps"] + step, columns) for step in range(wiped["steps"])]
    cut = [whole[r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in places]
    features, memory, head = saved.policy[0].module, saved.policy[1].lstm, saved.policy[2].module
    with torch.no_grad():
        seen = features(torch.from_numpy(np.stack(cut))[:, None])
        lstm = torch.nn.LSTM(seen.shape[-1], memory.hidden_size, batch_first=True)
        lstm.load_state_dict(memory.state_dict())
        values = head(lstm(seen[:, None])[0][:, 0]).numpy()
    np.testing.assert_allclose(wiped["values"], values, rtol=0, atol=ROUNDED)
    assert wiped["actions"] == values.argmax(-1).tolist()
    lengths = record["mean_length"]
    assert lengths["wiped"] < 0.2 * lengths["kept"]


def test_a_small_recording_is_fitted_on_the_first_half_and_scored_on_the_second(tmp_path, monkeypatch, saved):
    small = functools.partial(record_episode, episodes=3, steps=40)
    monkeypatch.setattr(player, "record_episode", small)
    for name in ("EPISODE", "PICTURES", "STEPS"):
        monkeypatch.setattr(player, name, tmp_path / getattr(player, name).name)
    player.main(RUN)
    text = (tmp_path / "episode.json").read_text(encoding="utf-8")
    made = json.loads(text)
    assert len(text.splitlines()) == len(made) + 2  # a line for each entry, so that a change can be read

    played = play(saved.policy, saved.cfg.env, 6, player.SEED, steps=40)
    assert made["fitted"]["steps"] == made["held_out"]["steps"] == 120
    x, y = played.hidden.double().numpy(), played.truth[..., [1, 3]].numpy()
    x = np.concatenate([x, np.ones((40, 6, 1))], -1)
    first, second = (slice(None), slice(0, 3)), (slice(None), slice(3, 6))
    weights = np.linalg.pinv(x[first].reshape(120, -1)) @ y[first].reshape(120, 2)
    truth = y[second].reshape(120, 2)
    error = x[second].reshape(120, -1) @ weights - truth
    score = 1 - (error**2).mean(0) / truth.var(0)
    assert list(made["r2"]["hidden"].values()) == pytest.approx(score.tolist(), abs=1e-3)

    spread = np.ptp(played.truth[:, 3:, 0].numpy(), axis=0)
    assert made["seed"] == EVAL_SEED + player.SEED + 3 + spread.argmax()
    strongest = x[second][..., :-1].reshape(120, -1).std(0)
    assert set(made["units"]) == set(np.argsort(strongest)[-8:].tolist())
    rows = -(-(40 + made["wiped"]["steps"]) // 25)
    assert iio.imread(tmp_path / "episode.png").shape == (rows * 84, 25 * 84)
    assert json.loads((tmp_path / "step-mdp.json").read_text())["made"] == made["made"]


def test_an_unsuitable_run_is_refused_in_one_line():
    with pytest.raises(UserError, match="the agent in .* does not see pictures: give a run of pixel-c"):
        record_episode(RESULTS / "masked-cartpole" / "seed-0")
    with pytest.raises(UserError, match="no held-out episode of .* lasts 501 steps: use a trained agent"):
        record_episode(RUN, episodes=1, steps=501)


def test_sheet_lays_pictures_out_in_rows():
    pictures = torch.arange(5, dtype=torch.uint8)[:, None, None].expand(5, 2, 2)
    assert sheet(pictures, columns=3).tolist() == [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 255, 255],
        [3, 3, 4, 4, 255, 255],
    ]


# The stepper.


def value(stage, place, key):
    return stage[place].get(key, [None, ""])[0]


def mark(stage, place, key):
    return stage[place].get(key, [None, ""])[1]


def test_a_fresh_rollout_gives_the_recorded_stages(steps):
    again = record_steps()["rollouts"]
    for wiring, rollout in steps.items():
        for name, step in rollout.items():
            fresh = again[wiring][name]
            assert fresh["step"] == step["step"]
            for a, b in zip(step["stages"], fresh["stages"], strict=True):
                assert a["name"] == b["name"]
                for place in ("root", "next"):
                    assert list(a[place]) == list(b[place])
                    for key, (recorded, became) in a[place].items():
                        assert became == mark(b, place, key)
                        if recorded is None:
                            assert value(b, place, key) is None
                        else:
                            assert recorded == pytest.approx(value(b, place, key), abs=2e-4), key


@pytest.mark.parametrize("wiring", ["right", "same", "new"])
def test_what_is_stored_is_what_env_rollout_stores(steps, wiring):
    torch.manual_seed(0)
    small = {"features": 3, "hidden_size": 3, "head": 8}
    cfg = Config.preset("masked-cartpole").replace(env={"num_envs": 1}, policy=small)
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)[:-1]
    add_primers(env, policy)
    names = {"right": [("next", H), ("next", C)], "same": [H, C], "new": ["h_new", "c_new"]}[wiring]
    keys = {"in_keys": ["embed", H, C], "out_keys": ["memory", *names]}
    layer = LSTMModule(lstm=policy[1].lstm, **keys)
    env.set_seed(0)
    with torch.no_grad():
        data = env.rollout(100, TensorDictSequential(policy[0], layer, *list(policy)[2:]))
    env.close()
    assert steps[wiring]["end"]["step"] == len(data) - 1 > steps[wiring]["inside"]["step"] > 0
    assert data[-1]["next", "done"]
    for step in steps[wiring].values():
        stored, stage = data[step["step"]], step["stages"][STAGES.index("after env.step")]
        for place, found in (("root", stored.exclude("next")), ("next", stored["next"])):
            assert set(stage[place]) == set(found.keys())
            for key, (recorded, _) in stage[place].items():
                assert recorded == pytest.approx(found[key].flatten().tolist(), abs=2e-4), key


@pytest.mark.parametrize("name", ["inside", "end"])
def test_the_right_state_moves_from_next_to_the_root(steps, name):
    before, policy, step, move, reset = steps["right"][name]["stages"]
    for key in (H, C):
        assert value(before, "root", key) == value(policy, "root", key) == value(step, "root", key)
        assert any(value(before, "root", key))
        new = value(policy, "next", key)
        assert new == value(step, "next", key) == value(move, "root", key) != value(before, "root", key)
        assert mark(policy, "next", key) == "new" and mark(step, "next", key) == ""
        assert mark(move, "root", key) == mark(move, "next", key) == "moved"
    assert before["next"] == {} and all(entry[0] is None for entry in move["next"].values())
    assert mark(move, "next", "reward") == "dropped" and reset["next"] == {}
    if name == "inside":
        assert {entry[1] for entry in reset["root"].values()} == {""}
    else:
        assert value(step, "next", "done") == value(move, "root", "done") == [True]
        assert value(reset, "root", H) == value(reset, "root", C) == [0, 0, 0]
        assert value(reset, "root", "is_init") == [True] and mark(reset, "root", "is_init") == "changed"


@pytest.mark.parametrize("name", ["inside", "end"])
def test_without_next_the_state_is_overwritten_or_never_arrives(steps, name):
    before, policy, step, move, _ = steps["same"][name]["stages"]
    new = value(policy, "root", H)
    assert new != value(before, "root", H) and mark(policy, "root", H) == "changed"
    assert policy["next"] == {} and any(value(before, "root", H))
    assert value(step, "next", H) == new == value(move, "root", H) and mark(step, "next", H) == "copied"

    stages = steps["new"][name]["stages"]
    assert [value(stage, "root", H) for stage in stages] == [[0, 0, 0]] * 5
    before, policy, step, move, reset = stages
    assert policy["next"] == {} and value(step, "next", H) == [0, 0, 0]
    assert any(value(policy, "root", "h_new")) and mark(policy, "root", "h_new") == "changed"
    assert value(policy, "root", "h_new") == value(reset, "root", "h_new") and "h_new" not in step["next"]
