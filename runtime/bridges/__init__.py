"""Adapters between bodies and what other programs of a robot speak: ROS 2, DDS, bags, Foxglove. Nothing imports them unasked."""
