"""The proof: the real node hears a real rclpy peer, and the peer hears it, in two processes over the loopback interface."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.keypoints import normalise_pixels
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.uncertainty import chi2_3_quantile

from .rclpy_environment import ROOT, rclpy_python

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SIZE = (1000, 800)
PERIOD_NS = 33_333_337
# Reliable and with room: what is asked here is whether any message is lost, and a busy machine must not answer for it.
PATIENT = {"threads": 1, "input_reliability": "reliable", "input_depth": 500, "queue_length": 500, "diagnostics_period": 0.2}


def _free_domain() -> int:
    """A ROS domain that nobody else has on this machine: its port of multicast discovery, 7400 + 250 domain, is free (DDSI-RTPS 9.6.1)."""
    for domain in random.sample(range(1, 101), 100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError("no ROS domain is free on this machine")


class Ros:
    """Starts processes in one ROS domain, on the loopback interface alone, and ends those that are left."""

    def __init__(self, python: Path, logs: Path):
        self.python, self.logs = python, logs
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROS_", "RMW_", "AMENT_", "FASTRTPS_", "PYTHON"))}
        own = {"ROS_DOMAIN_ID": str(_free_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_HOME": str(logs)}
        # With it rclpy checks every field's type, as it always does in ROS 2 Humble.
        self.env = kept | own | {"ROS_PYTHON_CHECK_FIELDS": "1"}
        self.path = [str(ROOT)]
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        env = self.env | {"PYTHONPATH": os.pathsep.join(self.path)}
        process = subprocess.Popen([str(self.python), *arguments], env=env, text=True, stderr=subprocess.PIPE, **options)
        self.started.append(process)
        return process

    def node(self, bundle: Path, /, *program: str, **parameters: Any) -> subprocess.Popen[str]:
        parameters = PATIENT | {"bundle": str(bundle)} | parameters
        told = [part for name, value in parameters.items() for part in ("-p", f"{name}:={str(value).lower() if value is False else value}")]
        return self.start(*(program or ("-m", "diffpose_edge.runtime.bridges.rclpy_main")), "--ros-args", *told)

    def peer(self) -> Peer:
        return Peer(self.start(str(HERE / "rclpy_peer.py"), stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


class Peer:
    """A peer process, asked by lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process

    def tell(self, do: str, **what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.process.stdin.flush()

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        self.tell(do, **what)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the peer died: {self.process.communicate()[1]}"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer


def ended(node: subprocess.Popen[str], number: int | None = None) -> tuple[int, str]:
    """End a node with a signal, and return its status and what it said."""
    if number is not None:
        node.send_signal(number)
    said = node.communicate(timeout=30)[1]
    return node.returncode, said


@pytest.fixture(scope="module")
def python() -> Path:
    return rclpy_python()


@pytest.fixture
def ros(python: Path, tmp_path: Path) -> Iterator[Ros]:
    with _started(python, tmp_path) as ros:
        yield ros


@contextmanager
def _started(python: Path, logs: Path) -> Iterator[Ros]:
    ros = Ros(python, logs)
    try:
        yield ros
    finally:
        ros.close()


def message(stamp_ns: int, seed: int, people: int = 2, frame: str = "camera") -> list[Any]:
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(100, 700, (people * 17, 2)), rng.uniform(0.3, 1, (people * 17, 1))], axis=1)
    return [stamp_ns, frame, points.tolist()]


def messages(count: int, begin_ns: int, people: int = 2) -> list[list[Any]]:
    return [message(begin_ns + i * PERIOD_NS, i, people) for i in range(count)]


def direct(bundle: Path, sent: list[list[Any]]) -> list[Any]:
    """What the runtime makes of messages, without ROS."""
    answers = []
    with PoseRuntime.load(bundle, threads=1) as runtime:
        for _, _, points in sent:
            rows = np.array(points).reshape(-1, 17, 3)
            answers.append(runtime.estimate(normalise_pixels(rows[..., :2], SIZE), rows[..., 2], seed=0))
    return answers


def stamps(heard: list[list[Any]]) -> list[int]:
    return [stamp for stamp, *_ in heard]


def test_a_peer_gets_the_runtimes_own_poses_and_the_node_ends_when_told(ros: Ros, conditioned_bundle: Path) -> None:
    node, peer = ros.node(conditioned_bundle, marker_lifetime=0.25, ellipsoid_level=0.5), ros.peer()
    peer.ask("meet")
    now = time.time_ns()
    sent = messages(30, now)
    # One joint unseen, and one person of whom too little was seen for a pose.
    sent[4][2][3][2] = 0.0
    for joint in range(17, 30):
        sent[7][2][joint][2] = 0.0
    peer.ask("send_camera", stamp_ns=now, frame_id="camera", width=SIZE[0], height=SIZE[1])
    peer.ask("send", messages=sent, rate=30)
    came = peer.ask("collect", poses=30)
    told = peer.ask("diagnostics")
    node.send_signal(signal.SIGTERM)
    peer.ask("last_of_markers")
    status, said = ended(node)
    assert status == 0, said

    # Every stamp is its image's, in order, once; sensor-data listeners heard as many.
    assert stamps(came["poses"]) == stamps(came["joints"]) == [stamp for stamp, *_ in sent]
    assert came["unreliably"] > 0
    assert {frame for _, frame, _ in came["poses"] + came["joints"]} == {"camera"}

    for i, (expected, (_, _, poses), (_, _, cloud), drawn) in enumerate(
        zip(direct(conditioned_bundle, sent), came["poses"], came["joints"], came["markers"], strict=True)
    ):
        found = [b for b in range(2) if np.isfinite(expected.joints[b]).all()]
        assert found == ([0] if i == 7 else [0, 1])
        # Bit for bit: the same numpy and ONNX Runtime on the same machine; a float64 holds every float32.
        np.testing.assert_array_equal(np.array(poses).reshape(2, 17, 3), expected.joints)
        np.testing.assert_array_equal(np.stack([cloud[a] for a in "xyz"], axis=-1).reshape(-1, 17, 3), expected.joints[found])
        np.testing.assert_array_equal(np.float32(cloud["xz"]).reshape(-1, 17), expected.covariance[found][..., 0, 2])
        assert cloud["body_id"] == [b for b in found for _ in range(17)]
        assert cloud["observed"] == expected.observed[found].astype(int).ravel().tolist()
        check_markers(drawn, expected, found, sent[i][0])

    values = told["values"]
    assert (values["frames"], values["answered"], values["people"], values["without_pose"]) == ("30", "30", "59", "1")
    assert (values["dropped"], values["malformed"], values["without_camera"]) == ("0", "0", "0")
    assert 0 < float(values["latency_p50_ms"]) <= float(values["latency_p99_ms"]) <= float(values["latency_max_ms"])
    assert told["name"] == "/diffpose_edge: poses"


def check_markers(drawn: list[dict[str, Any]], expected: Any, found: list[int], stamp: int) -> None:
    by_place = {(m["ns"], m["id"]): m for m in drawn}
    balls = {(f"ellipsoids_{b}", j) for b in found for j in range(1, 17)}
    assert set(by_place) == {(ns, b) for ns in ("bones", "names") for b in found} | balls
    assert {(m["stamp"], m["frame"], m["lifetime"], m["action"]) for m in drawn} == {(stamp, "camera", 0.25, 0)}
    for b in found:
        assert len(by_place["bones", b]["points"]) == 32
        np.testing.assert_array_equal(by_place["bones", b]["points"][1], expected.joints[b, 1])
        ball = by_place[f"ellipsoids_{b}", 16]
        np.testing.assert_array_equal(ball["position"], expected.joints[b, 16])
        deviations = np.sqrt(np.linalg.eigvalsh(expected.covariance[b, 16].astype(np.float64)))
        np.testing.assert_allclose(sorted(ball["scale"]), 2 * np.sqrt(chi2_3_quantile(0.5)) * deviations, rtol=1e-6)


def test_malformed_messages_are_counted_and_nothing_else_is_lost(ros: Ros, conditioned_bundle: Path) -> None:
    node, peer = ros.node(conditioned_bundle), ros.peer()
    peer.ask("meet")
    now = time.time_ns()
    peer.ask("send", messages=messages(3, now - 10**9), rate=100)
    before = peer.ask("diagnostics")
    assert (before["values"]["without_camera"], before["values"]["malformed"]) == ("3", "0")
    peer.ask("send_camera", stamp_ns=now, frame_id="camera", width=0, height=800)
    peer.ask("send_camera", stamp_ns=now, frame_id="camera", width=SIZE[0], height=SIZE[1])
    good = messages(12, now)
    end = good[-1][0]
    nan = message(end + 1, 0)
    nan[2][5][0] = float("nan")
    wild = message(end + 2, 0)
    wild[2][5][2] = 7.0
    short = message(end + 3, 0)
    short[2].pop()
    bad = {
        "number": [nan, wild],
        "length": [short, message(end + 4, 0, people=40)],
        "frame": [message(end + 5, 0, frame="another"), message(end + 6, 0, frame="")],
        "stamp": [message(good[0][0] - 1, 0), message(0, 0)],
    }
    script = list(good)
    for i, wrong in enumerate(m for group in bad.values() for m in group):
        script.insert(1 + 2 * i if i < 5 else -1, wrong)
    peer.ask("send", messages=script, rate=50)
    # Late and twice: what was taken before comes again.
    peer.ask("send", messages=[good[3], good[-1]], rate=50)
    came = peer.ask("collect", poses=12)
    told = peer.ask("diagnostics")
    assert ended(node, signal.SIGTERM)[0] == 0
    assert stamps(came["poses"]) == [stamp for stamp, *_ in good]
    for expected, (_, _, poses) in zip(direct(conditioned_bundle, good), came["poses"], strict=True):
        np.testing.assert_array_equal(np.array(poses).reshape(-1, 17, 3), expected.joints)
    counted = {reason: told["values"][f"malformed_{reason}"] for reason in ("number", "length", "frame", "stamp", "camera")}
    assert counted == {"number": "2", "length": "2", "frame": "2", "stamp": "4", "camera": "1"}
    assert (told["values"]["answered"], told["values"]["dropped"]) == ("12", "0")
    assert "twice" in told["values"]["last_refusal"]


def test_metrics_of_the_node_and_its_runtime_are_served(ros: Ros, conditioned_bundle: Path, tmp_path: Path) -> None:
    prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: pip install '.[metrics]'")
    # The node's Python has none: it is given ours, which is of Python alone.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "prometheus_client").symlink_to(Path(prometheus_client.__file__).parent)
    ros.path.append(str(tmp_path / "site"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    node, peer = ros.node(conditioned_bundle, image_width=SIZE[0], image_height=SIZE[1], metrics_port=port), ros.peer()
    peer.ask("meet")
    now = time.time_ns()
    peer.ask("send", messages=[*messages(5, now), message(now - 1, 0)], rate=50)
    peer.ask("collect", poses=5)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        told = answer.read().decode()
    assert ended(node, signal.SIGTERM)[0] == 0
    for line in (
        'diffpose_frames_total{source="node"} 6.0',
        'diffpose_frames_dropped_total{reason="malformed_stamp",source="node"} 1.0',
        'diffpose_estimates_total{source="runtime"} 6.0',  # one of them before the first message
    ):
        assert line in told, told


def test_a_peer_that_is_killed_and_started_again_does_not_hurt_the_node(ros: Ros, conditioned_bundle: Path) -> None:
    node, first = ros.node(conditioned_bundle, image_width=SIZE[0], image_height=SIZE[1]), ros.peer()
    first.ask("meet")
    now = time.time_ns()
    first.tell("send", messages=messages(200, now), rate=50)
    time.sleep(0.5)
    first.process.kill()
    second = ros.peer()
    second.ask("meet")
    assert node.poll() is None
    # Its clock is an hour late, as after a start without a network: it is believed from the tenth message on.
    late = messages(25, now - 3600 * 10**9, people=1)
    second.ask("send", messages=late, rate=50)
    came = second.ask("collect", poses=16)
    told = second.ask("diagnostics")
    assert ended(node, signal.SIGTERM)[0] == 0
    # What the first had sent may still be on its way to a second that listens already.
    answered = [stamp for stamp in stamps(came["poses"]) if stamp < now]
    assert answered == [stamp for stamp, *_ in late[9:]]
    assert (told["values"]["anew"], told["values"]["malformed_stamp"]) == ("1", "9")


def test_a_lifecycle_manager_has_the_node_in_hand(ros: Ros, conditioned_bundle: Path) -> None:
    node, peer = ros.node(conditioned_bundle, autostart=False), ros.peer()
    assert peer.ask("lifecycle")["state"] == "unconfigured"
    assert peer.ask("describe_parameter", name="threads")["ranges"] == [[0, 256]]
    assert not peer.ask("set_parameter", name="backend", value="abacus")["successful"]
    assert peer.ask("set_parameter", name="units", value="normalised")["successful"]
    assert not peer.ask("set_parameter", name="threads", value=10_000)["successful"]
    assert peer.ask("set_parameter", name="bundle", value=str(conditioned_bundle.parent / "nowhere"))["successful"]
    assert peer.ask("lifecycle", transition="configure") == {"changed": False, "state": "unconfigured"}
    assert peer.ask("set_parameter", name="bundle", value=str(conditioned_bundle))["successful"]
    assert peer.ask("lifecycle", transition="configure") == {"changed": True, "state": "inactive"}
    refused = peer.ask("set_parameter", name="steps", value=2)
    assert (refused["successful"], "clean it up" in refused["reason"]) == (False, True)
    assert peer.ask("lifecycle", transition="activate")["state"] == "active"
    peer.ask("meet")
    now = time.time_ns()
    normalised = [[now + i * PERIOD_NS, "camera", [[0.1 * joint % 0.7, 0.05 * joint, 1.0] for joint in range(17)]] for i in range(4)]
    peer.ask("send", messages=normalised[:2], rate=50)
    assert stamps(peer.ask("collect", poses=2)["poses"]) == stamps(normalised[:2])
    assert peer.ask("lifecycle", transition="deactivate")["state"] == "inactive"
    peer.ask("last_of_markers")
    assert peer.ask("diagnostics")["message"] == "inactive"
    assert peer.ask("lifecycle", transition="cleanup")["state"] == "unconfigured"
    assert peer.ask("lifecycle", transition="configure")["state"] == "inactive"
    assert peer.ask("lifecycle", transition="activate")["state"] == "active"
    peer.ask("meet")
    peer.ask("collect", poses=0)
    peer.ask("send", messages=normalised[2:], rate=50)
    assert stamps(peer.ask("collect", poses=2)["poses"]) == stamps(normalised[2:])
    assert peer.ask("lifecycle", transition="shutdown")["state"] == "finalized"
    status, said = ended(node, signal.SIGINT)
    assert status == 0, said


def test_a_source_of_ones_own_is_plugged_in_and_its_fault_ends_the_node(ros: Ros, conditioned_bundle: Path, tmp_path: Path) -> None:
    now = time.time_ns()
    sent = messages(3, now)
    ros.env["DIFFPOSE_CRASH_REPORTS"] = str(tmp_path / "reports")
    node = ros.node(conditioned_bundle, str(HERE / "own_source.py"), str(sent[2][0]))
    peer = ros.peer()
    peer.ask("meet")
    peer.ask("send_camera", stamp_ns=now, frame_id="camera", width=SIZE[0], height=SIZE[1])
    peer.ask("send", messages=sent, rate=20)
    came = peer.ask("collect", poses=2)
    status, said = ended(node)
    assert status == 1
    assert "broken on purpose" in said
    assert "nothing was sent" in said
    [path] = (tmp_path / "reports").iterdir()
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["where"] == "node's worker"
    assert {"bridge": "rclpy"} in [counted["about"] for counted in report["counted"]]
    for expected, (_, frame, poses) in zip(direct(conditioned_bundle, sent[:2]), came["poses"], strict=True):
        assert frame == "world"
        np.testing.assert_array_equal(np.array(poses).reshape(-1, 17, 3), expected.joints + np.float32([0, 0, 2]))


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [({"threads": -3}, "threads"), ({"input": "skeleton2d"}, "hri_msgs"), ({"metrics_port": 1}, "pip install prometheus-client")],
)
def test_a_mistake_in_the_parameters_is_told_and_ends_with_two(
    ros: Ros, conditioned_bundle: Path, parameters: dict[str, Any], wanted: str
) -> None:
    status, said = ended(ros.node(conditioned_bundle, **parameters))
    assert (status, wanted in said) == (2, True), said
