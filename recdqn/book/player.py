"""Record what the episode player and the stepper show (the welcome page and chapter 3).

Run it as ``python -m recdqn.book.player results/pixel-cartpole/seed-0``. It writes ``results/episode.json``
and ``book/_static/episode.png`` for the episode player, and ``results/step-mdp.json`` for the stepper.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
import tyro
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs.common import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import LSTMModule

from recdqn.book.recorded import RESULTS
from recdqn.config import Config, EnvConfig
from recdqn.envs import make_env
from recdqn.errors import UserError
from recdqn.evaluation import EVAL_SEED
from recdqn.flow import MOMENTS, MOVE, walk
from recdqn.policy import make_policy
from recdqn.run.folder import load_checkpoint
from recdqn.run.provenance import manifest

EPISODE = RESULTS / "episode.json"
PICTURES = RESULTS.parent / "book" / "_static" / "episode.png"
STEPS = RESULTS / "step-mdp.json"

SEED = EVAL_SEED + 10_000  # the first of the episodes the read-out is fitted on
EPISODES = 64  # for the fit, and as many again to score it
UNITS = 8  # of the hidden state, shown one strip each
COLUMNS = 25  # pictures in a row of the sprite sheet
VELOCITIES = {"cart": 1, "pole": 3}  # where they are in CartPole's state
DIGITS = 4  # after the point


@dataclass(frozen=True)
class Played:
    """Greedy episodes side by side, ``[steps, episodes, ...]``.

    Attributes:
        truth: CartPole's own state, ``[..., 4]``: position, velocity, angle in radians, angular velocity.
        features: what the policy made of each single picture, ``[..., features]``.
        hidden: the recurrent layer's ``h`` after it has read the picture, ``[..., hidden]``.
        values: the Q-values of left and right, ``[..., 2]``.
        actions: 0 for left, 1 for right, ``[...]``.
        pictures: what the policy saw of the first episode, ``[steps, size, size]``, uint8.
        running: which steps belong to the episodes and do not come after them, ``[...]``.
    """

    truth: np.ndarray
    features: np.ndarray
    hidden: np.ndarray
    values: np.ndarray
    actions: np.ndarray
    pictures: np.ndarray
    running: np.ndarray


@torch.no_grad()
def play(policy: TensorDictSequential, cfg: EnvConfig, episodes: int, seed: int, steps: int = 500) -> Played:
    """Play greedy episodes of pixel CartPole side by side, and note what the policy knew at every step.

    Args:
        policy: from :func:`recdqn.policy.make_policy`, for pixel CartPole.
        cfg: the environment it was trained in.
        episodes: how many, at least 2; the seeds follow one another.
        seed: of the first.
        steps: at most.
    """
    env = make_env(dataclasses.replace(cfg, num_envs=episodes, workers=False))
    env.append_transform(policy[1].make_tensordict_primer())
    running = np.ones(episodes, dtype=bool)
    rows = []
    with contextlib.closing(env), set_exploration_type(ExplorationType.DETERMINISTIC):
        env.set_seed(seed)
        td = env.reset()
        while running.any() and len(rows) < steps:
            truth = np.array([game.unwrapped.state for game in env.base_env.envs])
            td = policy(td)
            hidden = td["next", "recurrent_state_h"].squeeze(-2)
            parts = [td["embed"], hidden, td["action_value"], td["action"].argmax(-1), td["pixels"][0, 0]]
            rows.append((truth, *(part.clone().numpy() for part in parts), running))
            td = env.step(td)
            running = running & ~td["next", "done"].squeeze(-1).numpy()
            td = env.maybe_reset(env.step_mdp(td))
    return Played(*map(np.stack, zip(*rows, strict=True)))


def fit(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Fit a linear map with a constant by least squares: ``[n, inputs]`` to ``[n, targets]``.

    Returns:
        The weights, ``[inputs + 1, targets]``; the last line is the constant.
    """
    return np.linalg.lstsq(_with_ones(inputs), targets, rcond=None)[0]


def read_out(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Apply the weights of :func:`fit` to ``[..., inputs]``."""
    return _with_ones(inputs) @ weights


def r2(guess: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Share of the targets' variance that the guess explains: 1 at best, 0 for their mean; ``[targets]``."""
    return 1 - np.square(targets - guess).sum(0) / np.square(targets - targets.mean(0)).sum(0)


def _with_ones(inputs: np.ndarray) -> np.ndarray:
    return np.concatenate([inputs, np.ones_like(inputs[..., :1])], -1)


def record_episode(run: str | Path, episodes: int = EPISODES, steps: int = 500) -> tuple[dict, np.ndarray]:
    """Play, fit and score the read-outs, and record one episode that they were not fitted on.

    The recorded episode is the one whose cart moves farthest, of those that take ``steps`` steps. Everything
    is computed in float32, so that other machines get the same numbers.

    Args:
        run: the folder of a trained pixel agent.
        episodes: how many to fit on; as many again are held out.
        steps: at most, for each of them.

    Returns:
        What ``results/episode.json`` holds, and the pictures, ``[steps, size, size]``.

    Raises:
        UserError: if the agent sees no pictures, or no held-out episode is long enough.
    """
    saved = load_checkpoint(run)
    cfg, policy = saved.cfg.env, saved.policy
    if cfg.observation != "pixels":
        raise UserError(f"{run} holds an agent that sees no pictures: give a run of pixel-cartpole")
    policy[0].module.dtype = torch.float32  # also where the processor has bfloat16
    played = play(policy, cfg, 2 * episodes, SEED, steps)
    held_out = np.arange(2 * episodes) >= episodes
    fitted, scored = played.running & ~held_out, played.running & held_out
    lengths, position = played.running.sum(0), played.truth[..., 0]
    moved = np.where(held_out & (lengths == steps), np.ptp(position, axis=0), -1)
    if (moved < 0).all():
        raise UserError(f"no held-out episode of {run} takes {steps} steps: take an agent that is trained")
    pick = int(moved.argmax())
    shown = play(policy, cfg, 2, SEED + pick, steps)
    truth = played.truth[..., list(VELOCITIES.values())]
    weights, scores, guesses = {}, {}, {}
    for name in ("hidden", "features"):
        inputs = getattr(played, name)
        weights[name] = fit(inputs[fitted], truth[fitted])
        scores[name] = r2(read_out(inputs[scored], weights[name]), truth[scored])
        guesses[name] = read_out(getattr(shown, name)[:, 0], weights[name])
    units = np.argsort(-played.hidden[scored].std(0))[:UNITS]

    def rounded(values: np.ndarray, digits: int = DIGITS) -> list:
        return values.astype(float).round(digits).tolist()

    def both(values: np.ndarray, digits: int = DIGITS) -> dict[str, list]:
        return {name: rounded(values[..., k], digits) for k, name in enumerate(VELOCITIES)}

    record = {
        "picked": "of the held-out episodes that last to the time limit, the one whose cart moves farthest",
        "seed": SEED + pick,
        "steps": steps,
        "size": cfg.image_size,
        "columns": COLUMNS,
        "fitted": {"first_seed": SEED, "episodes": episodes, "steps": int(fitted.sum())},
        "held_out": {"first_seed": SEED + episodes, "episodes": episodes, "steps": int(scored.sum())},
        "r2": {name: both(score) for name, score in scores.items()},
        "inputs": {name: len(weight) - 1 for name, weight in weights.items()},
        "weights": {name: rounded(weight, 6) for name, weight in weights.items()},
        "measure": "largest standard deviation over the held-out episodes",
        "units": units.tolist(),
        "values": rounded(shown.values[:, 0]),
        "actions": shown.actions[:, 0].tolist(),
        "hidden": rounded(shown.hidden[:, 0, units], 3),
        "position": rounded(shown.truth[:, 0, 0]),
        "angle": rounded(shown.truth[:, 0, 2]),
        "truth": both(shown.truth[:, 0, list(VELOCITIES.values())]),
        "readout": both(guesses["hidden"]),
        "single": both(guesses["features"]),
    }
    return record, shown.pictures


def sheet(pictures: np.ndarray, columns: int = COLUMNS) -> np.ndarray:
    """Lay pictures ``[steps, size, size]`` out in rows, from the left; free places at the end are white."""
    steps, size, _ = pictures.shape
    rows = -(-steps // columns)
    full = np.full((rows * columns, size, size), 255, np.uint8)
    full[:steps] = pictures
    return full.reshape(rows, columns, size, size).swapaxes(1, 2).reshape(rows * size, columns * size)


WIRINGS = {
    "right": [("next", "recurrent_state_h"), ("next", "recurrent_state_c")],
    "same": ["recurrent_state_h", "recurrent_state_c"],
    "new": ["h_new", "c_new"],
}


def record_steps(hidden: int = 3) -> dict:
    """Record every entry of the TensorDict at each moment of two steps, for three wirings of one policy.

    The policy is small, untrained and acts greedily in masked CartPole; the steps are the third of its first
    episode and the last. ``"right"`` writes its states under ``"next"``; ``"same"`` and ``"new"`` lack the
    prefix, as in the bug of chapter 3.

    Args:
        hidden: units of the recurrent layer, and of the features.

    Returns:
        What ``results/step-mdp.json`` holds: for each wiring and step, a list of moments, and for each moment
        ``"root"`` and ``"next"``. They map a key to its value, or to ``None`` where it has just gone, and to
        what has become of it (see :func:`marks`).
    """
    small = {"features": hidden, "hidden_size": hidden, "head": 8}
    cfg = Config.preset("masked-cartpole").replace(env={"num_envs": 1}, policy=small)
    torch.manual_seed(0)
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)[:-1]  # without exploration
    rollouts = {}
    for name, keys in WIRINGS.items():
        layer = LSTMModule(
            lstm=policy[1].lstm,
            in_keys=["embed", "recurrent_state_h", "recurrent_state_c"],
            out_keys=["memory", *keys],
        )
        env.set_seed(0)
        episode = _first_episode(env, TensorDictSequential(policy[0], layer, *list(policy)[2:]))
        rollouts[name] = {
            "inside": {"step": 2, "moments": _describe(episode[2])},
            "end": {"step": len(episode) - 1, "moments": _describe(episode[-1])},
        }
    env.close()
    return {"rollouts": rollouts}


def _first_episode(env: EnvBase, policy: TensorDictModule) -> list[list[TensorDictBase]]:
    """What the TensorDict was at each moment of each step, to the end of an episode and its reset."""
    steps: list[list[TensorDictBase]] = [[]]
    for _, td in walk(env, policy):
        steps[-1].append(td.clone())
        if len(steps[-1]) == len(MOMENTS):
            if steps[-1][MOMENTS.index(MOVE)]["done"]:
                return steps
            steps.append([])


def _describe(step: list[TensorDictBase]) -> list[dict]:
    moments, before = [], None
    for name, td in zip(MOMENTS, step, strict=True):
        after = {"root": dict(td.exclude("next").items()), "next": dict(td.get("next", {}).items())}
        became = marks(before or after, after)
        places = {
            place: {
                key: [_plain(after[place].get(key)), became[place].get(key, "")]
                for key in sorted(after[place].keys() | became[place].keys())
            }
            for place in after
        }
        moments.append({"moment": name, **places})
        before = after
    return moments


def marks(before: dict[str, dict], after: dict[str, dict]) -> dict[str, dict[str, str]]:
    """Say what became of the entries of a TensorDict between two moments.

    Args:
        before: the entries by key, at the ``"root"`` and under ``"next"``.
        after: the same, at the second moment.

    Returns:
        For each place and key, ``"new"``, ``"changed"``, ``"dropped"``, ``"moved"`` (from ``"next"`` to the
        root) or ``"copied"`` (a state, from the root to ``"next"``). Others stayed as they were.
    """
    became: dict[str, dict[str, str]] = {"root": {}, "next": {}}
    moves = bool(before["next"]) and not after["next"]  # step_mdp takes all of "next" away
    for place, found in became.items():
        for key in before[place].keys() | after[place].keys():
            old, new = before[place].get(key), after[place].get(key)
            source = before["next"].get(key) if moves and place == "root" else None
            if new is None:
                up = moves and place == "next" and key in after["root"]
                found[key] = "moved" if up and torch.equal(after["root"][key], old) else "dropped"
            elif source is not None and torch.equal(source, new):
                found[key] = "moved"
            elif old is None:
                root = after["root"].get(key) if key.startswith("recurrent_state") else None
                same = place == "next" and root is not None and torch.equal(root, new)
                found[key] = "copied" if same else "new"
            elif not torch.equal(old, new):
                found[key] = "changed"
    return became


def _plain(value: torch.Tensor | None) -> list | None:
    if value is None:
        return None
    numbers = value.flatten().tolist()
    return [round(x, DIGITS) if isinstance(x, float) else x for x in numbers]


def _write(path: Path, record: dict) -> None:
    """Write JSON, one line for each entry."""
    pairs = ((json.dumps(key), json.dumps(value, separators=(",", ":"))) for key, value in record.items())
    lines = [": ".join(pair) for pair in pairs]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main(run: Path, /) -> None:
    """Record everything, and write it where the book looks for it.

    Args:
        run: the folder of a trained pixel agent.
    """
    made = manifest() | {"command": f"python -m recdqn.book.player {run.as_posix()}"}
    record, pictures = record_episode(run)
    _write(EPISODE, {"made": made, **record})
    iio.imwrite(PICTURES, sheet(pictures), optimize=True)
    _write(STEPS, {"made": made, **record_steps()})


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"recdqn.book.player: {error}")
