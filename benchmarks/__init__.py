"""Measurements, side by side with what else there is."""
