"""Recorded trajectories to quantisation ranges. Nothing is built here yet."""
