"""Bridges to other systems: each translates :class:`diffpose_edge.body.BodyEstimate`, and imports its own library when it is opened."""
