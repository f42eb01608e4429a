"""Support for the book: figures, recorded runs, tables, the episode player, run profiles."""

from recdqn.book.profiles import Profile

__all__ = ["Profile"]
