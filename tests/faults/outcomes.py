"""What a run leaves behind, to compare it with another one, and how to end one in its middle."""

import io
import json
import zipfile

import torch

from recdqn.run.state import Checkpoints


def outcome(out):
    """Metrics without times, and weights."""
    saved = json.loads((out / "metrics.json").read_text())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in saved["evaluations"]]
    return rows, saved["final"], torch.load(out / "policy.pt", weights_only=True)


def same(a, b):
    """Whether two outcomes are the same, bit for bit."""
    return a[:2] == b[:2] and a[2].keys() == b[2].keys() and all(torch.equal(a[2][k], b[2][k]) for k in a[2])


class Killed(BaseException):
    """As good as kill -9, but in this process."""


def die_after(monkeypatch, *counts):
    """Let runs die after so many checkpoints; return the list that these are noted in."""
    save, saves = Checkpoints.save, []

    def count(self, step):
        save(self, step)
        saves.append(step)
        if len(saves) in counts:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", count)
    return saves


def newest(out):
    return sorted((out / "checkpoints").glob("checkpoint-*"))


def parts(out):
    """Everything in the newest checkpoint, without times."""
    with zipfile.ZipFile(newest(out)[-1]) as file:
        components = json.loads(file.read("manifest.json"))["components"]
        states = {
            name: io.BytesIO(file.read(part["path"] + "/state.pt")) for name, part in components.items()
        }
    states = {name: torch.load(state, weights_only=True) for name, state in states.items()}
    del states["progress"]["seconds"]
    for row in states["progress"]["metrics"]:
        del row["seconds"]
    for episode in states["collection"]["episodes"]:
        del episode["checksum"]  # of the spaces' generators too, which nobody seeds
        generators = json.loads(episode["random"]["generators"])
        episode["random"]["generators"] = {k: v for k, v in generators.items() if "np_random" in k}
    return states


def equal(a, b):
    """Whether nested values are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def parts_seconds(out):
    """The seconds of training that the newest checkpoint tells."""
    with zipfile.ZipFile(newest(out)[-1]) as file:
        path = json.loads(file.read("manifest.json"))["components"]["progress"]["path"]
        return torch.load(io.BytesIO(file.read(f"{path}/state.pt")), weights_only=True)["seconds"]
