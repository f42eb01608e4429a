"""Record a greedy episode, with the agent's memory and without, and linear read-outs of the memory.

Run it as ``python -m recdqn.book.player results/pixel-cartpole/seed-0``. It writes ``results/episode.json``
and ``book/_static/episode.png`` for the episode player, and ``results/step-mdp.json`` for the stepper (see
:mod:`recdqn.book.stepper`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
import tyro
from tensordict.nn import TensorDictSequential
from torch import Tensor

from recdqn.book.readout import apply_linear, fit_linear, r2
from recdqn.book.recorded import RESULTS, Record
from recdqn.book.stepper import record_steps
from recdqn.config import EnvConfig
from recdqn.errors import UserError
from recdqn.evaluation import EVAL_SEED, evaluation_env, greedy
from recdqn.flow import BEFORE, POLICY, STEP, recurrent_keys, walk
from recdqn.run.folder import load_checkpoint
from recdqn.run.provenance import manifest

EPISODE = RESULTS / "episode.json"
PICTURES = RESULTS.parent / "book" / "_static" / "episode.png"
STEPS = RESULTS / "step-mdp.json"

SEED = 10_000  # first evaluation seed of the episodes
EPISODES = 64  # to fit the read-out, and as many again to score it
UNITS = 8  # hidden units to show
COLUMNS = 25  # pictures in a row of the sprite sheet
VELOCITIES = {"cart": 1, "pole": 3}  # indices in CartPole's state
DIGITS = 4  # decimal places in the record


@dataclass(frozen=True)
class Played:
    """Greedy episodes of pixel CartPole, played side by side.

    Attributes:
        truth: CartPole's state, ``[steps, episodes, 4]``: position, velocity, angle in radians and angular
            velocity, in double precision.
        features: features of the current picture, ``[steps, episodes, features]``.
        hidden: ``h`` of the recurrent layer after the picture, ``[steps, episodes, hidden]``.
        values: Q-values of left and right, ``[steps, episodes, 2]``.
        actions: 0 for left, 1 for right, ``[steps, episodes]``.
        pictures: pictures of the first episode, uint8, ``[steps, size, size]``.
        running: whether the step belongs to the episode and does not come after it, ``[steps, episodes]``.
    """

    truth: Tensor
    features: Tensor
    hidden: Tensor
    values: Tensor
    actions: Tensor
    pictures: Tensor
    running: Tensor


@torch.no_grad()
def play(
    policy: TensorDictSequential,
    cfg: EnvConfig,
    episodes: int,
    seed: int,
    steps: int = 500,
    wiped: bool = False,
) -> Played:
    """Play greedy episodes of pixel CartPole side by side and record the policy's activations.

    Args:
        policy: from :func:`recdqn.policy.make_policy`, for pixel CartPole.
        cfg: the environment it was trained in.
        episodes: number of episodes, at least 2; their seeds are consecutive.
        seed: evaluation seed of the first episode.
        steps: maximum number of steps.
        wiped: whether to set the recurrent state to zero before every step.
    """
    states = [read for read, _ in recurrent_keys(policy)]
    running = torch.ones(episodes, dtype=torch.bool)
    rows: list[tuple[Tensor, ...]] = []
    cfg = dataclasses.replace(cfg, num_envs=episodes, workers=False)
    with evaluation_env(policy, cfg, seed) as env:
        for stage, td in walk(env, greedy(policy)):
            if wiped and stage == BEFORE:
                for key in states:
                    td.get(key).zero_()
            elif stage == POLICY:
                games = env.base_env.gym.envs
                truth = torch.tensor(np.array([cartpole.unwrapped.state for cartpole in games]))
                hidden = td["next", "recurrent_state_h"].squeeze(-2)
                row = [td["embed"], hidden, td["action_value"], td["action"].argmax(-1), td["pixels"][0, 0]]
                rows.append((truth, *(part.clone() for part in row), running))
            elif stage == STEP:
                running = running & ~td["next", "done"].squeeze(-1)
                if len(rows) == steps or not running.any():
                    break
    return Played(*map(torch.stack, zip(*rows, strict=True)))


def record_episode(run: str | Path, episodes: int = EPISODES, steps: int = 500) -> tuple[Record, Tensor]:
    """Fit and score the read-outs, and record an episode that they were not fitted on.

    Of the held-out episodes that last ``steps`` steps, the one whose cart moves farthest is recorded.
    The same episode, and all held-out episodes for their mean length, are played again with the memory wiped
    before every step. The network computes in float32, so that other machines get the same numbers.

    Args:
        run: folder of a trained pixel agent.
        episodes: number of episodes to fit on; as many again are held out.
        steps: maximum number of steps of an episode.

    Returns:
        The contents of ``results/episode.json``, and the pictures, ``[pictures, size, size]``: first of the
        whole episode, then of the same episode with the memory wiped.

    Raises:
        UserError: if the agent does not see pictures, or if no held-out episode is long enough.
    """
    saved = load_checkpoint(run)
    cfg, policy = saved.cfg.env, saved.policy
    if cfg.observation != "pixels":
        raise UserError(f"the agent in {run} does not see pictures: give a run of pixel-cartpole")
    policy[0].module.dtype = torch.float32  # instead of bfloat16, where the processor has it
    played = play(policy, cfg, 2 * episodes, SEED, steps)
    held_out = torch.arange(2 * episodes) >= episodes
    fitted, scored = played.running & ~held_out, played.running & held_out
    position = played.truth[..., 0]
    moved = position.amax(0) - position.amin(0)
    moved[~held_out | (played.running.sum(0) < steps)] = -1
    if (moved < 0).all():
        raise UserError(f"no held-out episode of {run} lasts {steps} steps: use a trained agent")
    pick = int(moved.argmax())
    shown = play(policy, cfg, 2, SEED + pick, steps)
    forgetful = play(policy, cfg, 2, SEED + pick, steps, wiped=True)
    length = int(forgetful.running[:, 0].sum())
    all_forgetful = play(policy, cfg, episodes, SEED + episodes, steps, wiped=True)
    velocities = list(VELOCITIES.values())
    truth = played.truth[..., velocities]
    weights, scores, estimates = {}, {}, {}
    for name in ("hidden", "features"):
        inputs = getattr(played, name)
        weights[name] = fit_linear(inputs[fitted], truth[fitted])
        scores[name] = r2(apply_linear(weights[name], inputs[scored]), truth[scored])
        estimates[name] = apply_linear(weights[name], getattr(shown, name)[:, 0])
    units = played.hidden[scored].std(0).argsort(descending=True)[:UNITS]
    first = EVAL_SEED + SEED
    record = {
        "picked": "of the held-out episodes that last to the time limit, the one whose cart moves farthest",
        "seed": first + pick,
        "steps": steps,
        "size": cfg.image_size,
        "columns": COLUMNS,
        "fitted": {"first_seed": first, "episodes": episodes, "steps": int(fitted.sum())},
        "held_out": {"first_seed": first + episodes, "episodes": episodes, "steps": int(scored.sum())},
        "r2": {name: _cart_and_pole(score) for name, score in scores.items()},
        "inputs": {name: len(weight) - 1 for name, weight in weights.items()},
        "weights": {name: _rounded(weight, 6) for name, weight in weights.items()},
        "measure": "largest standard deviation over the held-out episodes",
        "units": units.tolist(),
        "values": _rounded(shown.values[:, 0]),
        "actions": shown.actions[:, 0].tolist(),
        "hidden": _rounded(shown.hidden[:, 0, units], 3),
        "position": _rounded(shown.truth[:, 0, 0]),
        "angle": _rounded(shown.truth[:, 0, 2]),
        "truth": _cart_and_pole(shown.truth[:, 0, velocities]),
        "readout": _cart_and_pole(estimates["hidden"]),
        "single": _cart_and_pole(estimates["features"]),
        "wiped": {
            "steps": length,
            "values": _rounded(forgetful.values[:length, 0]),
            "actions": forgetful.actions[:length, 0].tolist(),
            "position": _rounded(forgetful.truth[:length, 0, 0]),
            "angle": _rounded(forgetful.truth[:length, 0, 2]),
        },
        "mean_length": {
            "kept": _mean_length(played.running[:, held_out]),
            "wiped": _mean_length(all_forgetful.running),
        },
    }
    return record, torch.cat([shown.pictures, forgetful.pictures[:length]])


def _rounded(values: Tensor, digits: int = DIGITS) -> list[Any]:
    rounded: list[Any] = values.double().numpy().round(digits).tolist()
    return rounded


def _mean_length(running: Tensor) -> float:
    return round(running.sum(0).double().mean().item(), 1)


def _cart_and_pole(values: Tensor) -> dict[str, list[Any]]:
    return {name: _rounded(values[..., k]) for k, name in enumerate(VELOCITIES)}


def sheet(pictures: Tensor, columns: int = COLUMNS) -> np.ndarray:
    """Arrange pictures, ``[steps, size, size]``, in rows from the left; unused cells at the end are white."""
    steps, size, _ = pictures.shape
    rows = -(-steps // columns)
    full = torch.full((rows * columns, size, size), 255, dtype=torch.uint8)
    full[:steps] = pictures
    cells = full.reshape(rows, columns, size, size).transpose(1, 2)
    return cells.reshape(rows * size, columns * size).numpy()


def _write(path: Path, record: Record) -> None:
    """Write JSON, one line per entry."""
    pairs = ((json.dumps(key), json.dumps(value, separators=(",", ":"))) for key, value in record.items())
    lines = [": ".join(pair) for pair in pairs]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main(run: Path, /) -> None:
    """Record the episode and the steps, and write the files that the book shows.

    Args:
        run: folder of a trained pixel agent.
    """
    made = manifest()
    record, pictures = record_episode(run)
    _write(EPISODE, {"made": made, **record})
    iio.imwrite(PICTURES, sheet(pictures), optimize=True)
    _write(STEPS, {"made": made, **record_steps()})


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"recdqn.book.player: {error}")
