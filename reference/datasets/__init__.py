"""Readers of the data sets that lifting networks are trained and tested on; numpy only."""
