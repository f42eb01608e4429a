"""Collect with many processes, on one machine or on a Ray cluster."""

from recdqn.scale.actor import Actor
from recdqn.scale.cluster import Cluster, sources
from recdqn.scale.fleet import Fleet

__all__ = ["Actor", "Cluster", "Fleet", "sources"]
