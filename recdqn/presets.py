"""Presets: what each changes of the default settings in :mod:`recdqn.config`."""

from typing import Any

Settings = dict[str, Any]

WHOLE = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "reward_scale": 1.0}
NEVER = 1_000_000_000.0  # a mean return that no task reaches
#: The settings that belong to one environment, with values that are safe for any other.
NEUTRAL: dict[str, Settings] = {
    "env": WHOLE | {"entries": ("all",), "arrays": ("ask",), "mask": "none"},
    "policy": {"initial_value": 0.0},
    "train": {"solved_return": NEVER},
}
SMALL = {"hidden_size": 32, "features": 32, "head": 32, "initial_value": 0.0}
FAST = {"updates": 4, "learning_rate": 1e-3, "final_learning_rate": 2.5e-4}
STEEP = {"learning_rate": 1e-3, "final_learning_rate": 1e-4, "eval_every": 80}


def neutral(part: str, given: Any) -> Any:
    """Add to the settings of a part what belongs to one environment, with safe values for another one.

    Args:
        part: its name.
        given: the settings that are chosen; a complete part is returned as it is.
    """
    if not isinstance(given, dict):
        return given
    if part == "env" and given.get("observation") == "masked":
        given = {"visible": ()} | given  # refused: it must be said which entries are masked
    return NEUTRAL[part] | given


def _corridor(length: int, gamma: float, frames: int) -> Settings:
    """Settings for a task whose only reward, 1 or -1, comes at its end and depends on what its start showed.

    A slice must contain both, so it is a whole episode.
    """
    return {
        "env": WHOLE | {"id": f"recdqn/Corridor{length}-v0"},
        "policy": SMALL
        | {"memory_span": length + length // 5, "eps_frames": 8_000 if length <= 30 else 40_000},
        "loss": {"gamma": gamma},
        "replay": {
            "capacity": max(60_000, 200 * length),
            "slice_len": length + 10,
            "whole": True,
            "slices": max(8, 320 // (length + 10)),
        },
        "train": FAST
        | {"total_frames": frames, "eval_every": 40 if length <= 30 else 80, "solved_return": 0.95},
    }


def _t_maze(length: int, gamma: float, frames: int) -> Settings:
    """Settings for the same task if the agent walks by itself: three times as many steps at the start."""
    steps = 3 * length + 10
    maze = _corridor(length, gamma, frames)
    maze["env"] |= {"id": f"recdqn/TMaze{length}-v0"}
    maze["policy"] |= {"memory_span": steps, "eps_frames": 60_000}
    maze["replay"] |= {"slice_len": steps, "slices": 8}
    maze["train"] |= {"eval_every": 80}
    return maze


def _minigrid(size: int, slice_len: int, memory_span: int, frames: int) -> Settings:
    """Settings for MiniGrid's memory task; an episode of a trained agent fits into a slice."""
    return {
        "env": WHOLE | {"id": f"recdqn/MiniGridMemoryS{size}-v0"},
        "policy": {"initial_value": 0.0, "eps_frames": 60_000, "memory_span": memory_span},
        "loss": {"gamma": 0.98},
        "replay": {
            "capacity": 100_000,
            "slice_len": slice_len,
            "whole": True,
            "slices": 640 // slice_len,
        },
        "train": STEEP | {"total_frames": frames, "updates": 4, "solved_return": 0.93},
    }


def _joined(*parts: Settings) -> Settings:
    """Return all settings; later ones count."""
    names = {name for settings in parts for name in settings}
    return {
        name: {key: value for settings in parts for key, value in settings.get(name, {}).items()}
        for name in sorted(names)
    }


PIXELS: Settings = {
    "env": {"observation": "pixels", "num_envs": 16, "reward_scale": 0.01},
    "policy": {"features": 128, "eps_frames": 10_000},
    "loss": {"gamma": 0.99, "tau": 0.01},
    # Reading pictures is slow, so evaluations are fewer and shorter.
    "train": {
        "total_frames": 60_000,
        "learning_rate": 1e-3,
        "average": 0.999,
        "eval_every": 50,
        "eval_episodes": 10,
    },
}
PRESETS: dict[str, Settings] = {
    "masked-cartpole": {},  # the defaults
    "pixel-cartpole": PIXELS,
    "flickering-cartpole": {
        "env": {
            "id": "recdqn/FlickeringCartPole-v0",
            "observation": "masked",
            "visible": (0, 2),
            "loc": (0.0, 0.0),
            "scale": (2.0, 20.0),
            "reward_scale": 0.005,
            "previous": True,  # a hidden step changes the speed by an unknown amount if the action is unknown
        },
        "policy": {"initial_value": 1.0},
        "replay": {"capacity": 50_000},
        "train": {"total_frames": 200_000, "solved_return": 475.0},
    },
    "flickering-pixels": _joined(
        PIXELS,
        {
            "env": {"id": "recdqn/FlickeringCartPole-v0", "previous": True},
            "policy": {"initial_value": 1.0},
            "train": {"total_frames": 120_000, "solved_return": 475.0},
        },
    ),
    "corridor-10": _corridor(10, 0.99, 30_000),
    "corridor-30": _corridor(30, 0.99, 60_000),
    "corridor-100": _corridor(100, 0.997, 100_000),
    "corridor-300": _corridor(300, 0.999, 250_000),
    "corridor-1000": _corridor(1000, 0.9997, 1_000_000),
    "t-maze-10": _t_maze(10, 0.99, 200_000),
    "t-maze-30": _t_maze(30, 0.99, 300_000),
    "t-maze-100": _t_maze(100, 0.997, 1_000_000),
    "copy": {
        "env": WHOLE | {"id": "recdqn/Copy-v0"},
        "policy": SMALL | {"hidden_size": 64, "memory_span": 12},
        # Actions change nothing that comes later, so later rewards only add noise.
        "loss": {"gamma": 0.5, "n_steps": 1},
        "replay": {"capacity": 60_000, "whole": True},
        "train": FAST | {"total_frames": 100_000, "eval_every": 40, "solved_return": 0.9},
    },
    # Card games of POPGym: an answer has a reward, and actions change nothing that comes later, as in "copy".
    "repeat-previous": {
        "env": WHOLE | {"id": "recdqn/RepeatPreviousEasy-v0"},
        "policy": {"initial_value": 0.0, "eps_frames": 40_000},
        "loss": {"gamma": 0.5, "n_steps": 1},
        "replay": {"capacity": 60_000, "slice_len": 51, "whole": True, "slices": 12},
        "train": STEEP | {"total_frames": 150_000, "solved_return": 0.95},
    },
    "count-recall": {
        "env": WHOLE | {"id": "recdqn/CountRecallEasy-v0"},
        "policy": {"initial_value": 0.0, "eps_frames": 60_000, "memory_span": 60},
        "loss": {"gamma": 0.5, "n_steps": 1},
        "replay": {"capacity": 60_000, "slice_len": 51, "whole": True, "slices": 12},
        "train": STEEP | {"total_frames": 300_000, "updates": 4, "solved_return": 0.9},
    },
    "autoencode": {
        "env": WHOLE | {"id": "recdqn/AutoencodeEasy-v0"},
        "policy": {"initial_value": 0.0, "eps_frames": 40_000, "memory_span": 120},
        "loss": {"gamma": 0.5, "n_steps": 1},
        "replay": {"capacity": 60_000, "slice_len": 103, "whole": True, "slices": 8},
        "train": STEEP | {"total_frames": 300_000, "updates": 4, "solved_return": 0.9},
    },
    "minigrid-memory-s7": _minigrid(7, 40, 0, 300_000),
    "minigrid-memory-s9": _minigrid(9, 50, 20, 300_000),
    "minigrid-memory-s11": _minigrid(11, 60, 20, 300_000),
    "minigrid-memory-s13": _minigrid(13, 70, 20, 500_000),
}

# The complete agent of R2D2. Its numbers are the paper's, except the target network's: the runs here make
# thousands of updates and not hundreds of thousands, so it is copied every 100 updates and not every 2,500.
R2D2: Settings = {
    "env": {"previous": True},
    "policy": {"dueling": True},
    "loss": {"n_steps": 5, "double_dqn": True, "value_rescale": True, "target_every": 100},
    "replay": {"priority": 0.9, "priority_max": 0.9, "importance": 0.6},
    "scale": {"ladder": True},
}
# Where episodes are longer than a slice: sequences of 20 steps after 10 of burn-in, one every 10 steps, a
# quarter of the paper's 80, 40 and 40.
SEQUENCES: Settings = {"loss": {"burn_in": 10}, "replay": {"slice_len": 30, "period": 10}}


PRESETS |= {
    # values of about 1, which the network learns rescaled
    "r2d2-masked-cartpole": _joined(R2D2, SEQUENCES, {"policy": {"initial_value": 0.415}}),
    "r2d2-flickering-cartpole": _joined(
        PRESETS["flickering-cartpole"], R2D2, SEQUENCES, {"policy": {"initial_value": 0.415}}
    ),
    "r2d2-minigrid-memory-s7": _joined(
        PRESETS["minigrid-memory-s7"], R2D2, {"loss": {"burn_in": 10}, "replay": {"period": 10}}
    ),
    # A slice is a whole episode there, and needs no burn-in.
    **{
        f"r2d2-{task}": _joined(PRESETS[task], R2D2)
        for task in ("corridor-30", "corridor-100", "corridor-300", "corridor-1000", "t-maze-10")
    },
}
