"""The commands that write, each on something small, and what tells whether what they wrote is whole."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffpose_edge.bundle import load_bundle, sha256_of
from diffpose_edge.engines import engine_records
from diffpose_edge.timings import all_timings

# By the name of an artefact a digest of it, what differs from run to run left out. None: it is not there.
Whole = dict[str, str | None]
IMAGES = 4
OLDER = "an older one"


@dataclass(frozen=True)
class Case:
    """A command: ``arguments`` by the folder that it works on, ``before`` puts there what is there beforehand, and ``whole`` reads
    what is there afterwards, raising where that is not whole. ``bulk``: roughly what it writes, bytes.
    """

    name: str
    arguments: Callable[[Path], Sequence[object]]
    before: Callable[[Path], None]
    whole: Callable[[Path], Whole]
    bulk: int
    # How the command may end when what it was to make is there, made by the try that was killed.
    made_already: str = ""


def command_line(arguments: Sequence[object]) -> int:
    """Run ``diffpose-edge`` in this process and return its exit status."""
    from diffpose_edge.cli import main

    sys.argv = ["diffpose-edge", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def make_materials(folder: Path) -> None:
    """Make what the cases begin with: two pairs, a bundle of the first with its timings, a clip, a bag, poses, a key."""
    from diffpose_edge.export import export_bundle
    from diffpose_edge.reference.random_weights import write_random_conditioned_pair
    from diffpose_edge.runtime.bridges.bags import BagWriter
    from diffpose_edge.runtime.bridges.plain_messages import POSE_ARRAY

    folder.mkdir(parents=True)
    for name, seed in (("first", 3), ("second", 4)):
        write_random_conditioned_pair(folder / name, seed=seed)
    export_bundle(*_pair(folder, "first"), folder / "bundle", persons=1, samples=2)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(folder / "key.pem")], check=True, capture_output=True)
    rng = np.random.default_rng(0)
    np.savez(folder / "clip.npz", keypoints=rng.uniform(-0.5, 0.5, (6, 17, 2)).astype(np.float32))
    with BagWriter(folder / "recorded") as bag:
        of = bag.classes
        for i in range(IMAGES):
            stamp = of("builtin_interfaces/msg/Time")(sec=1_700_000_000, nanosec=i)
            still = of("geometry_msgs/msg/Quaternion")(x=0.0, y=0.0, z=0.0, w=1.0)
            points = [of("geometry_msgs/msg/Point")(x=x, y=y, z=1.0) for x, y in rng.uniform(-0.5, 0.5, (17, 2)).tolist()]
            poses = [of("geometry_msgs/msg/Pose")(position=point, orientation=still) for point in points]
            message = of(POSE_ARRAY)(header=of("std_msgs/msg/Header")(stamp=stamp, frame_id="camera"), poses=poses)
            bag.write("/people", POSE_ARRAY, 1_700_000_000_000_000_000 + i, message)
    commands = [
        ("run", folder / "bundle", "--keypoints", folder / "clip.npz", "--out", folder / "poses.npz", "--threads", 1),
        ("time", folder / "bundle", "--threads", 1),
    ]
    for command in commands:
        if command_line(command) != 0:
            raise RuntimeError(f"{command[0]} failed")


def _pair(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name / "denoiser.safetensors", folder / name / "context.safetensors"


def cases_of(folder: Path) -> list[Case]:
    """Return the cases, by the materials in ``folder``."""

    def pair(name: str) -> tuple[object, ...]:
        denoiser, context = _pair(folder, name)
        return ("--denoiser", denoiser, "--context", context, "--samples", 2)

    def bundle_there(live: Path) -> None:
        shutil.copytree(folder / "bundle", live / "bundle")

    def nothing_there(live: Path) -> None:
        pass

    def bag_there(live: Path) -> None:
        shutil.copytree(folder / "recorded", live / "out")

    def text_there(name: str) -> Callable[[Path], None]:
        def put(live: Path) -> None:
            (live / name).write_text(OLDER, encoding="utf-8")

        return put

    replay = ("replay", folder / "recorded", "--bundle", folder / "bundle", "--normalised", "--threads", 1)
    size = sum(path.stat().st_size for path in (folder / "bundle").rglob("*") if path.is_file())
    bundle = folder / "bundle"
    return [
        Case(
            "run", lambda live: ("run", bundle, "--keypoints", folder / "clip.npz", "--out", live / "poses.npz", "--threads", 1),
            text_there("poses.npz"), lambda live: {"poses.npz": _npz(live / "poses.npz")}, 30_000,
        ),
        Case(
            "view", lambda live: ("view", folder / "poses.npz", "--out", live / "poses.html"),
            text_there("poses.html"), lambda live: {"poses.html": _page(live / "poses.html")}, 600_000,
        ),
        Case(
            "evaluate", lambda live: ("evaluate", bundle, "--limit", 2, "--json", live / "evaluation.json", "--threads", 1),
            text_there("evaluation.json"), lambda live: {"evaluation.json": _evaluation(live / "evaluation.json")}, 20_000,
        ),
        Case(
            "replay", lambda live: (*replay, "--out", live / "out", "--force"),
            bag_there, lambda live: {"out": _bag(live / "out")}, 40_000,
        ),
        Case(
            "replay, a new bag", lambda live: (*replay, "--out", live / "out"),
            nothing_there, lambda live: {"out": _bag(live / "out")}, 40_000, "exists already",
        ),
        Case("train", lambda live: ("train", "tiny", "--out", live / "training", "--no-plot"), nothing_there, _training, 200_000),
        Case(
            "calibrate", lambda live: ("calibrate", live / "bundle", "--frames", 2, "--timesteps", "49,24"),
            bundle_there, _bundle, 3 * size,
        ),
        Case(
            "export, in place of another", lambda live: ("export", *pair("second"), "--out", live / "bundle", "--force"),
            bundle_there, _bundle, size,
        ),
        Case("export", lambda live: ("export", *pair("second"), "--out", live / "bundle"), nothing_there, _bundle, size, "exists already"),
        Case(
            "build", lambda live: ("build", live / "bundle", "--flavour", "rtx", "--no-prove"),
            bundle_there, _bundle, 2_000_000,
        ),
        Case("sign", lambda live: ("sign", live / "bundle", "--key", folder / "key.pem"), bundle_there, _bundle, 1000),
    ]  # fmt: skip


def _bundle(live: Path) -> Whole:
    path = live / "bundle"
    if not path.exists():
        return {"bundle": None}
    loaded = load_bundle(path)
    content = loaded.manifest.to_json()
    found: Whole = {"bundle": sha256_of(json.dumps(sorted((n, e.sha256) for n, e in loaded.manifest.files.items())).encode())}
    for engine, record in engine_records(loaded):
        if sha256_of(engine.read_bytes()) != record.sha256:
            raise ValueError(f"{engine.name} is not the one of its record")
        found[record.name] = "built"
    found["timings"] = str(sum(1 for _ in all_timings(loaded)))
    if (path / "manifest.json.sig").exists():
        found["signature"] = sha256_of((path / "manifest.json.sig").read_bytes() + content.encode())
    return found


def _npz(path: Path) -> str:
    if path.read_bytes() == OLDER.encode():
        return "older"
    with np.load(path) as arrays:
        return hashlib.sha256(b"".join(arrays[name].tobytes() for name in ("joints", "samples", "covariance"))).hexdigest()


def _page(path: Path) -> str:
    content = path.read_bytes()
    if content != OLDER.encode() and not content.rstrip().endswith(b"</html>"):
        raise ValueError("half a page")
    return sha256_of(content)


def _evaluation(path: Path) -> str:
    if path.read_bytes() == OLDER.encode():
        return "older"
    return sha256_of(json.dumps(sorted(json.loads(path.read_text(encoding="utf-8")))).encode())


def _bag(path: Path) -> str | None:
    if not path.exists():
        return None
    from diffpose_edge.runtime.bridges.bags import BagReader

    with BagReader(path) as bag:
        counts = {topic: sum(1 for _ in bag.messages(topic)) for topic in sorted(bag.topics)}
        if counts != dict(sorted(bag.counts.items())):
            raise ValueError(f"{counts} messages, the bag says {bag.counts}")
    return json.dumps(counts)


def _training(live: Path) -> Whole:
    from safetensors import safe_open

    found: Whole = {}
    for name in ("context", "denoiser"):
        for kind in (".safetensors", ".state.safetensors"):
            path = live / "training" / f"{name}{kind}"
            if path.exists():
                with safe_open(path, framework="np") as file:
                    found[path.name] = sha256_of(b"".join(file.get_tensor(key).tobytes() for key in sorted(file.keys())))
            else:
                found[path.name] = None
        log = live / "training" / f"{name}.log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        if [json.loads(line)["epoch"] for line in lines] != list(range(1, len(lines) + 1)):
            raise ValueError(f"{log.name} has not one line for each epoch")
    return found
