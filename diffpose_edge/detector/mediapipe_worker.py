"""Pose landmarks of images, for the process that started this one: images come on standard input, answers go to standard output.

Runs on its own in an environment with mediapipe and numpy, and imports nothing of diffpose_edge; docs/video.md has the protocol.
"""

import json
import os
import signal
import sys

PROTOCOL = 1


def main() -> int:
    # The owner ends this process; an interrupt typed at the terminal reaches both, and the owner has to be the one to act.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Answers get a descriptor of their own: what a library prints must not come between them.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def answer(**message: object) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    import mediapipe
    import numpy as np

    if not hasattr(mediapipe, "solutions"):
        print(f"mediapipe {mediapipe.__version__} has no 'solutions' any more: 0.10.21 has", file=sys.stderr)
        return 1
    with mediapipe.solutions.pose.Pose(model_complexity=1) as pose:
        answer(protocol=PROTOCOL, detector=f"mediapipe {mediapipe.__version__}", landmarks=33)
        while line := sys.stdin.buffer.readline():
            request = json.loads(line)
            w, h = request["width"], request["height"]
            content = sys.stdin.buffer.read(3 * w * h)
            if len(content) < 3 * w * h:
                break  # the owner ended in the middle of an image
            if request["first"]:
                pose.reset()  # a new clip: nobody is being followed yet
            found = pose.process(np.frombuffer(content, np.uint8).reshape(h, w, 3)).pose_landmarks
            rows = None if found is None else [[mark.x * w, mark.y * h, mark.visibility] for mark in found.landmark]
            answer(number=request["number"], landmarks=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
