"""Train the classic pipeline, with the tutorial's loop and settings: does it learn?

``python -m benchmarks.tutorial CHANGES SEED`` trains with the first ``CHANGES`` of :data:`CHANGES` made and
records ``results/classic-tutorial/CHANGES/seed-SEED``. The tutorial stops after 200 frames; here it gets as
many as the package's agent needs to solve the same task.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import SoftUpdate

from benchmarks import classic
from recdqn import RecurrentDQNLoss
from recdqn.book.recorded import RESULTS
from recdqn.run.provenance import manifest

# What is changed, in this order, each change on top of those before.
CHANGES = (
    "one mean and deviation for the picture, strided convolutions",
    "RecurrentDQNLoss over 5 steps, target moved after every update",
    "exploration from 1 to 0.05 in the first 16,000 frames",
)
FRAMES = 32_000  # environment steps; the median seed of the pixel preset solves the task in as many
UPDATES = 16  # gradient steps per collection of classic.ROW steps
EVAL_EVERY = 50  # collections between evaluations
EVAL_EPISODES = 5  # greedy episodes of an evaluation, one after the other


def train(changes: int, seed: int, frames: int, device: str, out: Path) -> None:
    """Train and write ``metrics.json`` into ``out`` after every evaluation."""
    torch.manual_seed(seed)
    env, test_env = (classic.make_env(per_column=changes < 1) for _ in range(2))
    test_env.transform.load_state_dict(env.transform.state_dict())  # the same statistics of the pictures
    env.set_seed(seed)
    test_env.set_seed(1_000_000 + seed)
    explore = {"eps_init": 1.0, "eps_end": 0.05, "annealing_num_steps": 16_000} if changes >= 3 else {}
    policy = classic.make_policy(env, pooled=changes < 1, **explore).to(device)
    test_env.append_transform(policy[1].make_tensordict_primer())
    if changes < 2:
        loss, target = classic.make_loss(policy, env)
    else:
        loss = RecurrentDQNLoss(policy[:-1], action_space=env.action_spec, n_steps=5)
        target = SoftUpdate(loss, tau=0.01)
    loss.to(device)
    optimiser = torch.optim.Adam(loss.parameters(), lr=classic.LEARNING_RATE)
    collector = Collector(
        env,
        policy,
        frames_per_batch=classic.ROW,
        total_frames=frames,
        policy_device=device,
        env_device="cpu",
        storing_device="cpu",
    )
    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        buffer = classic.make_replay_buffer(frames // classic.ROW, scratch_dir=scratch)
        for k, row in enumerate(collector, start=1):
            buffer.extend(row.unsqueeze(0).cpu())
            losses = []
            for _ in range(UPDATES):
                with set_recurrent_mode(True):
                    value = loss(buffer.sample().to(device))["loss"]
                value.backward()
                optimiser.step()
                optimiser.zero_grad()
                losses.append(value.item())
                if changes >= 2:
                    target.step()
            if changes < 2:
                target.step()
            policy[-1].step(row.numel())
            if k % EVAL_EVERY == 0:
                result = {
                    "frames": k * classic.ROW,
                    "seconds": round(time.perf_counter() - started, 1),
                    "returns": evaluate(test_env, policy, device),
                    "loss": sum(losses) / len(losses),
                    "eps": round(policy[-1].eps.item(), 4),
                }
                rows.append(result)
                print(changes, seed, result, flush=True)
                (out / "metrics.json").write_text(json.dumps({"evaluations": rows}, indent=1) + "\n")
    collector.shutdown()


def evaluate(env: TransformedEnv, policy: TensorDictModule, device: str) -> list[float]:
    """Return the lengths of greedy episodes: the returns of CartPole."""
    lengths = []

    def act(td):
        return policy(td.to(device)).to("cpu")

    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        for _ in range(EVAL_EPISODES):
            lengths.append(float(env.rollout(500, act).shape[-1]))
    return lengths


def main() -> None:
    """Run one seed from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("changes", type=int, choices=range(len(CHANGES) + 1))
    parser.add_argument("seed", type=int)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "classic-tutorial")
    given = parser.parse_args()
    torch.set_num_threads(1)
    out = given.out / str(given.changes) / f"seed-{given.seed}"
    out.mkdir(parents=True)
    made = manifest() | {"seed": given.seed, "device": given.device, "changes": CHANGES[: given.changes]}
    (out / "manifest.json").write_text(json.dumps(made, indent=2) + "\n")
    train(given.changes, given.seed, given.frames, given.device, out)


if __name__ == "__main__":
    main()
