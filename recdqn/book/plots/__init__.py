"""The book's figures: a module for each chapter, with a common style in :mod:`recdqn.book.plots.style`."""

from recdqn.book.plots.classic_tutorial import tutorial_curves
from recdqn.book.plots.does_memory_matter import AGENTS, influence, memory_grid, start_errors, task_pictures
from recdqn.book.plots.hidden_state import state_flow, state_rows
from recdqn.book.plots.loss import (
    errors_after_start,
    errors_by_position,
    leak,
    memory_across_slices,
    slice_steps,
)
from recdqn.book.plots.making_it_fast import (
    errors_by_cart_position,
    growth,
    speed_ups,
    stacked_bars,
    train_and_test_errors,
)
from recdqn.book.plots.more_than_one_machine import fleet_parts, large_fleets, timelines
from recdqn.book.plots.out_of_the_notebook import agent_places
from recdqn.book.plots.own_environment import (
    corridor_drawing,
    corridor_film,
    corridor_values,
    memory_curves,
)
from recdqn.book.plots.policy import epsilon_schedules, pole_embeddings, policy_graph, value_starts
from recdqn.book.plots.price_of_bugs import price_of_bugs
from recdqn.book.plots.r2d2 import fixed_sequences, piece_worth, place_priorities
from recdqn.book.plots.training_loop import replay_counts, seed_curves
from recdqn.book.plots.transforms import column_statistics, episode_marks, picture_grid, velocity_fits

__all__ = [
    "AGENTS",
    "agent_places",
    "task_pictures",
    "start_errors",
    "memory_grid",
    "influence",
    "column_statistics",
    "corridor_drawing",
    "corridor_film",
    "corridor_values",
    "episode_marks",
    "epsilon_schedules",
    "errors_after_start",
    "errors_by_cart_position",
    "errors_by_position",
    "fixed_sequences",
    "fleet_parts",
    "growth",
    "large_fleets",
    "leak",
    "memory_across_slices",
    "memory_curves",
    "picture_grid",
    "piece_worth",
    "place_priorities",
    "pole_embeddings",
    "policy_graph",
    "price_of_bugs",
    "replay_counts",
    "seed_curves",
    "slice_steps",
    "speed_ups",
    "stacked_bars",
    "state_flow",
    "state_rows",
    "timelines",
    "train_and_test_errors",
    "tutorial_curves",
    "value_starts",
    "velocity_fits",
]
