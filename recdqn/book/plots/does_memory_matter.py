"""Figures of memory: tasks, agents with and without one, and what a trained agent's values depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from recdqn.book.plots.style import (
    BLUE,
    GREEN,
    GREY,
    OLIVE,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    figsize,
    is_narrow,
    panels,
    style,
    two_widths,
)
from recdqn.curves import Record, learning_curve

# Tasks of the drawing: Gymnasium's id, and the steps that are drawn.
DRAWN = {
    "recdqn/Corridor10-v0": (0, 1, 10),
    "recdqn/Copy-v0": (0, 3, 4, 8),
    "recdqn/FlickeringCartPole-v0": (0, 1, 2, 3),
}
AGENTS = {
    "lstm": ("LSTM", BLUE, "o"),
    "wiped": ("LSTM, memory wiped", SKY, "v"),
    "gru": ("GRU", GREEN, "s"),
    "ppo": ("RecurrentPPO", OLIVE, "h"),
    "four": ("four observations", ORANGE, "D"),
    "none": ("no memory", RED, "X"),
    "shown": ("no memory, nothing hidden", GREY, "P"),
    "shown-lstm": ("LSTM, nothing hidden", PURPLE, "^"),
}


@two_widths
def task_pictures() -> Figure:
    """Draw some steps of three tasks, as their environments do."""
    with style():
        count = max(map(len, DRAWN.values()))
        fig, axes = plt.subplots(len(DRAWN), count, figsize=figsize(3.4, 2.6))
        for row, (name, steps) in zip(axes, DRAWN.items(), strict=True):
            env = gym.make(name, render_mode="rgb_array")
            env.reset(seed=1)
            frames = [env.render()]
            for _ in range(max(steps)):
                env.step(0)
                frames.append(env.render())
            env.close()
            for ax in row:
                ax.axis("off")
            for ax, step in zip(row, steps, strict=False):
                ax.imshow(frames[step])
                ax.set_title(f"step {step}", fontsize=8.5, pad=2)
    return fig


@two_widths
def memory_grid(tasks: Mapping[str, Mapping[str, Sequence[Record]]], guessing: Mapping[str, float]) -> Figure:
    """Draw the final return of each agent in each task, with the interval over seeds.

    Args:
        tasks: by task and by agent of ``AGENTS``, the recorded runs.
        guessing: mean return of random play, by task.
    """
    with style():
        fig, axes = panels(len(tasks), 2.6, 1.9, most=3, sharey=not is_narrow())
        names = list(reversed([name for name in AGENTS if any(name in agents for agents in tasks.values())]))
        for ax, (task, agents) in zip(axes, tasks.items(), strict=True):
            for y, name in enumerate(names):
                if name not in agents:
                    continue
                curve, (_, color, marker) = learning_curve(agents[name]), AGENTS[name]
                if curve.low is not None and curve.high is not None:
                    ax.plot([curve.low[-1], curve.high[-1]], [y, y], color=color, lw=3, alpha=0.5)
                ax.plot(curve.iqm[-1], y, marker, color=color, ms=6)
            ax.axvline(guessing[task], ls=":", color=GREY)
            ax.set_yticks(range(len(names)), [AGENTS[name][0] for name in names])
            ax.set_title(task, fontsize=9)
            ax.margins(x=0.15)
            ax.grid(axis="y", lw=0.4)
        fig.supxlabel("mean return; dotted: random play", fontsize="medium")
    return fig


@two_widths
def influence(shares: Mapping[str, Sequence[float]]) -> Figure:
    """Draw how much a Q-value depends on each earlier observation.

    Args:
        shares: by agent, the share of the observation of k steps before, for k from 0 on.
    """
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.0))
        for number, (label, values) in enumerate(shares.items()):
            line, marker = ("-", "--", "-.", ":")[number % 4], "osD^"[number % 4]
            color = (BLUE, PURPLE, ORANGE, GREEN)[number % 4]
            ax.plot(range(len(values)), values, line, marker=marker, ms=4, color=color, label=label)
        ax.set(xlabel="steps back, k", ylabel="share", yscale="log")
        fig.legend(loc="outside upper left", ncols=1 if is_narrow() else 2)
    return fig


@two_widths
def start_errors(errors: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the discrepancy of Q-values after different starts of a slice.

    Args:
        errors: at the first and the last step, by kind of start: ``"zero 5"`` is zeros and 5 steps of
            burn-in.
    """
    with style():
        fig, ax = plt.subplots(figsize=figsize(2.8))
        for kind, color, line in (("zero", RED, "o--"), ("stored", BLUE, "s-")):
            steps = sorted(int(name.split()[1]) for name in errors if name.startswith(kind))
            for place, fill in (("first", "full"), ("last", "none")):
                at = 0 if place == "first" else 1
                values = np.array([errors[f"{kind} {k}"][at] for k in steps])
                label = f"{'zeros' if kind == 'zero' else 'stored state'}, {place} step"
                ax.plot(steps, values, line, color=color, fillstyle=fill, ms=6, label=label)
        ax.set(xlabel="steps of burn-in", ylabel="discrepancy", yscale="log")
        fig.legend(loc="outside upper left", ncols=1 if is_narrow() else 2)
    return fig
