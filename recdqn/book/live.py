"""Write the weights of the agents that run in the reader's browser.

``python -m recdqn.book.live`` writes ``book/_extra/live/masked.js``, ``bugs.js`` and ``pixel.js`` from
recorded runs. ``network.js`` beside them reads these files. Weights of ``masked.js`` are float16. The others
are whole numbers, one letter each, with a factor for each row, so that all files stay below 400 kB.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictSequential
from torch import Tensor

from recdqn.agent import Agent
from recdqn.book.readout import apply_linear, fit_linear, r2
from recdqn.book.recorded import RESULTS, Record
from recdqn.config import Config
from recdqn.envs import make_vector_env
from recdqn.policy.encoders import PixelEncoder
from recdqn.policy.modules import recurrent_cell
from recdqn.run.folder import load_checkpoint

FOLDER = RESULTS.parent / "book" / "_extra" / "live"
#: By file and name, the run of an agent, and the largest whole number of a weight; 0 for float16.
FILES = {
    "masked": {"masked": ("masked-cartpole/seed-0", 0), "none": ("memory/masked-cartpole/none/seed-0", 0)},
    "bugs": {
        "leak": ("bugs/masked-cartpole/target-leak/seed-0", 43),
        "primer": ("bugs/masked-cartpole/no-primer/seed-0", 43),
    },
    "pixel": {"pixel": ("pixel-cartpole/seed-0", 127)},
}
LARGE = 100_000  # a matrix of more weights has numbers of at most 25
EPISODES = 32  # to fit a read-out, and as many again to score it
SEED = 20_000  # of their environments
STEPS = 500


def rounded(weight: Tensor, most: int) -> tuple[Tensor, bytes, str]:
    """Round a tensor to what a file holds.

    Args:
        weight: any tensor; those with one dimension are always float16.
        most: largest whole number that stands for a weight; 0 for float16.

    Returns:
        The rounded tensor in float32; its float16 numbers, which are the factors for whole numbers; and the
        whole numbers, one letter each.
    """
    if not most or weight.ndim == 1:
        half = weight.half()
        return half.float(), half.numpy().astype("<f2").tobytes(), ""
    rows, most = weight.flatten(1), min(most, 25 if weight.numel() > LARGE else most)
    factors = (rows.abs().amax(1, keepdim=True) / most).clamp(min=1e-4).half()
    numbers = (rows / factors.float()).round().clamp(-most, most)
    zero = ord("O") if most <= 43 else 256  # letters of one byte, or of two
    letters = "".join(chr(zero + int(number)) for number in numbers.flatten().tolist())
    letters = letters.replace("\\", "{")
    return (numbers * factors.float()).reshape(weight.shape), factors.numpy().astype("<f2").tobytes(), letters


def named(policy: TensorDictSequential) -> dict[str, Tensor]:
    """Return the parameters of a policy of :func:`recdqn.policy.make_policy` by their names in the files."""
    features, *memory, head = list(policy)[:-2]
    found: dict[str, Tensor] = {}
    if isinstance(features.module, PixelEncoder):
        layers = [layer for layer in features.module.convolutions if hasattr(layer, "weight")]
        parts = {f"convolution_{k}": layer for k, layer in enumerate(layers)}
        parts |= {"features": features.module.features, "normalise": features.module.normalise}
    else:
        parts = {"features": features.module[0]}
    parts |= {"head": head.module[0], "value": head.module[-1]}
    for name, layer in parts.items():
        found |= {f"{name}_weight": layer.weight, f"{name}_bias": layer.bias}
    for module in memory:
        cell: Any = recurrent_cell(module)
        found |= {"input_weight": cell.weight_ih_l0, "input_bias": cell.bias_ih_l0}
        found |= {"state_weight": cell.weight_hh_l0, "state_bias": cell.bias_hh_l0}
    return found


@torch.no_grad()
def pack(policy: TensorDictSequential, cfg: Config, most: int) -> Record:
    """Round the weights of a policy, in place, and return what ``network.js`` reads."""
    layout: list[list[Any]] = []
    content, letters = b"", ""
    for name, weight in named(policy).items():
        values, part, word = rounded(weight, most)
        weight.copy_(values)
        content += part
        letters += word
        layout.append([name, "whole" if word else "float16", *weight.shape])
    shapes = {name: shape for name, _, *shape in layout}
    made: Record = {
        "layout": layout,
        "features": shapes["features_weight"][0],
        "hidden": cfg.policy.hidden_size if "state_weight" in shapes else 0,
        "head": shapes["head_weight"][0],
        "scale": cfg.env.scale,
    }
    if cfg.env.observation == "pixels":
        made |= {"size": cfg.env.image_size, "contrast": cfg.policy.contrast}
        made["convolutions"] = list(zip(cfg.policy.kernels, cfg.policy.strides, strict=True))
    return made | {"data": base64.b64encode(content).decode(), "letters": letters}


def fit_readout(policy: TensorDictSequential, cfg: Config, episodes: int = EPISODES) -> Record:
    """Fit the velocities of cart and pole on the memory of a masked agent, in greedy episodes.

    Returns:
        The weights ``[hidden + 1, 2]``, the intercept last, and R² in other episodes, ``[2]``.
    """
    env = Config.preset("masked-cartpole").replace(env={"num_envs": 2 * episodes}).env
    agent, envs = Agent(policy, cfg.env), make_vector_env(env)
    seen, _ = envs.reset(seed=SEED)
    state, running = agent.initial_state(2 * episodes), np.ones(2 * episodes, bool)
    rows: list[tuple[np.ndarray, ...]] = []
    for _ in range(STEPS):
        values, state = agent.batch_values(seen, state)
        rows.append((state[0][:, 0], seen[:, [1, 3]].copy(), running.copy()))
        seen, _, terminated, truncated, _ = envs.step(values.argmax(-1))
        ended = terminated | truncated
        running &= ~ended
        if not running.any():
            break
        if ended.any():
            seen, _ = envs.reset(options={"reset_mask": ended})
    envs.close()
    hidden, truth, counted = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    first = torch.arange(2 * episodes) < episodes
    fitted, scored = counted & first, counted & ~first
    weights = fit_linear(hidden[fitted], truth[fitted], ridge=1e-6)
    score = r2(apply_linear(weights, hidden[scored]), truth[scored].double())
    return {"readout": weights.numpy().round(4).tolist(), "r2": score.numpy().round(3).tolist()}


def agents(file: str) -> Record:
    """Return the agents of a file by name, as ``network.js`` reads them."""
    made = {}
    for name, (folder, most) in FILES[file].items():
        run = load_checkpoint(RESULTS / folder)
        described = pack(run.policy, run.cfg, most)
        if name == "pixel":
            episode = json.loads((RESULTS / "episode.json").read_text(encoding="utf-8"))
            described |= {"readout": np.round(episode["weights"]["hidden"], 4).tolist()}
            described |= {"r2": list(episode["r2"]["hidden"].values())}
        elif described["hidden"]:
            described |= fit_readout(run.policy, run.cfg)
        made[name] = {"run": f"results/{folder}", **described}
    return made


def main(folder: Path = FOLDER) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        text = json.dumps(agents(file), separators=(",", ":"), ensure_ascii=False)
        line = "// Written by: python -m recdqn.book.live\n"
        (folder / f"{file}.js").write_text(f"{line}recdqnAgents.add({text});\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
