"""Environments: made by name, checked, observed as pixels, run in processes, saved in mid-episode."""

from recdqn.envs.make import add_primers, hide_velocities, make_env
from recdqn.envs.pixels import GREY, RenderedPixels, ResizedPixels, prepare_display

__all__ = [
    "GREY",
    "RenderedPixels",
    "ResizedPixels",
    "add_primers",
    "hide_velocities",
    "make_env",
    "prepare_display",
]
