"""Environments: made by name, checked, drawn, run in processes, saved in mid-episode."""

from recdqn.envs.make import hide_velocities, make_env
from recdqn.envs.pixels import GREY, Pictures, SmallPictures, prepare_display

__all__ = ["GREY", "Pictures", "SmallPictures", "hide_velocities", "make_env", "prepare_display"]
