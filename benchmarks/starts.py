"""Measure how much Q-values depend on the state that a slice starts from.

``python -m benchmarks.starts`` writes ``results/starts.json``: masked CartPole is trained for 12,800 frames,
five seeds. Then the network reads every slice of 20 steps in the buffer from zeros, or from the stored state
of its first step, each also after some steps of burn-in, and the whole episode from its beginning. R2D2's
discrepancy (Kapturowski et al., 2019) is the norm of the difference of the Q-values, divided by the largest
absolute Q-value of the episode. It is measured again where a Ray actor collects, with weights that are some
collections old.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.staleness import LAGS, SEEDS, delayed
from recdqn import Learner, add_primers, make_collector, make_env, make_replay_buffer
from recdqn.book.recorded import RESULTS
from recdqn.loop import Progress, loop
from recdqn.replay.sampler import TRAJECTORY
from recdqn.run.provenance import manifest
from recdqn.scale import Fleet

FRAMES = 12_800
LENGTH = 20  # steps of a slice, as in the preset
BURN_IN = (0, 5, 10)


def train(seed: int, lag: int = 0) -> tuple[Learner, Any]:
    """Train without an evaluation, and return the networks and the buffer."""
    cfg = delayed(lag, seed).replace(train={"eval_every": 10**6})
    torch.manual_seed(seed)
    env = make_env(cfg.env)
    env.set_seed(seed)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    buffer = make_replay_buffer(cfg)
    progress = Progress()
    with contextlib.ExitStack() as stack:
        if lag:
            collector: Any = stack.enter_context(Fleet(cfg, learner.policy)).collect_into(buffer)
        else:
            collector = make_collector(cfg, env, learner.policy, buffer)
        for _ in stack.enter_context(
            contextlib.closing(loop(learner, collector, buffer, lambda: ..., progress))
        ):
            if progress.frames == FRAMES and not progress.updates_due:
                break
    return learner, buffer


def episodes(stored: Any) -> Iterator[Any]:
    """Yield the episodes of a storage ``[rows, environments]``."""
    numbers = stored[TRAJECTORY]
    for env in range(numbers.shape[1]):
        ends = (numbers[1:, env] != numbers[:-1, env]).nonzero().flatten() + 1
        bounds = [0, *ends.tolist(), len(numbers)]
        for first, stop in zip(bounds, bounds[1:], strict=False):
            yield stored[first:stop, env]


@torch.no_grad()
def discrepancies(learner: Learner, stored: Any) -> Iterator[tuple[str, float, float]]:
    """Yield the kind of start, and the discrepancies at the first and the last step of a slice."""
    features, cell, head = (learner.policy[k] for k in range(3))
    lstm: nn.LSTM = cell.lstm

    def values(embedded: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        return head.module(lstm(embedded[None], state)[0])[0]

    zero = torch.zeros(1, 1, lstm.hidden_size)
    for episode in episodes(stored):
        if len(episode) < LENGTH + max(BURN_IN) or not episode["is_init"][0]:
            continue
        embedded = features.module(episode["observation"])
        exact = values(embedded, (zero, zero))
        largest = exact.abs().max()
        states = [episode[key] for key in ("recurrent_state_h", "recurrent_state_c")]
        for first in range(max(BURN_IN), len(episode) - LENGTH, LENGTH):
            for burn_in in BURN_IN:
                begin = first - burn_in
                stored_state = tuple(state[begin][:, None] for state in states)
                for name, start in (("zero", (zero, zero)), ("stored", stored_state)):
                    found = values(embedded[begin : first + LENGTH], start)[burn_in:]
                    error = (found - exact[first : first + LENGTH]).norm(dim=-1) / largest
                    yield f"{name} {burn_in}", error[0].item(), error[-1].item()


def measure(lag: int) -> tuple[dict[str, list[float]], int]:
    """Return the mean discrepancies of each kind of start, at the first and the last step, and the slices."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in SEEDS:
        learner, buffer = train(seed, lag)
        for name, first, last in discrepancies(learner, buffer.storage[:]):
            found[name].append((first, last))
    errors = {name: torch.tensor(each).mean(0).tolist() for name, each in found.items()}
    return errors, len(next(iter(found.values())))


def main() -> None:
    """Write the mean discrepancies of each kind of start, by the age of the weights that collect."""
    errors, slices = {}, {}
    for lag in LAGS:
        errors[lag], slices[lag] = measure(lag)
        print(lag, json.dumps(errors[lag], indent=1), slices[lag], flush=True)
    out = {"manifest": manifest(), "frames": FRAMES, "slices": slices, "errors": errors}
    (RESULTS / "starts.json").write_text(f"{json.dumps(out, indent=1)}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
