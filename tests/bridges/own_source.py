"""The node with a source of one's own, which puts people in front of the camera, and breaks at the stamp that it is told to break at."""

import dataclasses
import sys

import numpy as np

from diffpose_edge.runtime.bridges.people_source import PeopleInOrder
from diffpose_edge.runtime.bridges.rclpy_main import run

BREAKS_AT = int(sys.argv[1])


class Breaking(PeopleInOrder):
    def process(self, stamp_ns, people):
        if stamp_ns == BREAKS_AT:
            raise RuntimeError("broken on purpose")
        return super().process(stamp_ns, people)


def two_metres_ahead(bodies, camera):
    root = np.array([0.0, 0.0, 2.0 if camera is None else camera.focal[0] / 450], np.float32)
    return [dataclasses.replace(body, root=root, frame_id="world") for body in bodies]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], open_source=Breaking, place=two_metres_ahead))
