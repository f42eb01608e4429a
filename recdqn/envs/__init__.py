"""Environments: made by name, checked, observed as pixels, run in processes, saved in mid-episode."""

from recdqn.envs.make import add_primers, declared_spaces, hide_velocities, make_env, make_vector_env
from recdqn.envs.pixels import GREY, RenderedPixels, ResizedPixels, prepare_display, small_grey

__all__ = [
    "GREY",
    "RenderedPixels",
    "ResizedPixels",
    "add_primers",
    "declared_spaces",
    "hide_velocities",
    "make_env",
    "make_vector_env",
    "prepare_display",
    "small_grey",
]
