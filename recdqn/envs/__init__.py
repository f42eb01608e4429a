"""Environments: made by name, checked, observed as pixels, run in processes, saved in mid-episode."""

from recdqn.envs import adapters, memory
from recdqn.envs.base import GymnasiumEnv, OpenEnv, hide_velocities
from recdqn.envs.make import add_primers, declared_spaces, make_env, make_vector_env, open_env
from recdqn.envs.pixels import PAINTERS, RenderedPixels, ScreenReader, prepare_display
from recdqn.envs.shrink import GREY, small_grey

__all__ = [
    "GREY",
    "GymnasiumEnv",
    "OpenEnv",
    "PAINTERS",
    "RenderedPixels",
    "ScreenReader",
    "add_primers",
    "declared_spaces",
    "hide_velocities",
    "make_env",
    "make_vector_env",
    "open_env",
    "prepare_display",
    "small_grey",
]

memory.register()
adapters.register()
