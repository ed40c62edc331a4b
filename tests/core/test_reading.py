"""Files that are none, or are too large, or lead elsewhere: refused at once, with nothing read of them."""

from __future__ import annotations

import os
import socket
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from diffpose_edge.camera_files import load_camera
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.fitted import schedules_of_checkpoints
from diffpose_edge.formats.registry import read_detections
from diffpose_edge.formats.text_file import lines_of
from diffpose_edge.keypoints import load_keypoints
from diffpose_edge.reading import open_file, read_file
from diffpose_edge.viewer.result_files import load_result

READERS: dict[str, Callable[[Path], object]] = {
    "camera": load_camera,
    "keypoints": load_keypoints,
    "detections": read_detections,
    "evaluation set": load_evaluation,
    "schedules": lambda path: schedules_of_checkpoints(path, {}, 50),
    "poses": lines_of,
    "result": load_result,
}


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.yaml")
    return folder / "pipe.yaml"


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_without_waiting_for_anybody_to_write(tmp_path: Path, reader: str) -> None:
    pipe, said = a_pipe(tmp_path), []

    def read() -> None:
        with pytest.raises(DiffPoseEdgeError) as refused:
            READERS[reader](pipe)
        said.append(str(refused.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive(), "it waits for a writer"
    assert "pipe" in said[0]
    assert "is a pipe, a socket or a device" in said[0] or "neither a file nor a folder" in said[0]


@pytest.mark.parametrize("reader", READERS)
def test_a_device_without_an_end_is_refused_and_no_memory_taken(reader: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DiffPoseEdgeError, match=r"device|neither a file nor a folder"):
            READERS[reader](Path("/dev/zero"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["a\0b", "a" * 300, ".", "missing"])
def test_a_name_that_no_file_has_is_a_mistake_and_no_fault(tmp_path: Path, reader: str, name: str) -> None:
    if (reader, name) == ("schedules", "missing"):
        assert READERS[reader](tmp_path / name) == ()  # schedules need not be there
        return
    with pytest.raises(DiffPoseEdgeError):
        READERS[reader](tmp_path / name)


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match="socket"):
            open_file(tmp_path / "s", 100)


def test_a_file_is_read_up_to_the_limit_and_not_beyond(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, and up to 4 are read"):
        read_file(tmp_path / "file", 4)


def test_a_file_with_holes_is_refused_by_its_size_and_takes_no_memory(tmp_path: Path) -> None:
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="it has 1099511627776 bytes"):
            read_file(tmp_path / "holes", 1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_does_not_tell_its_size_is_refused() -> None:
    with pytest.raises(OSError, match="does not tell its size"):
        read_file("/proc/self/status", 1 << 20)


def test_links_may_lead_about_in_their_folder_and_not_out_of_it(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (inner / "file").write_bytes(b"file")
    (inner / "within").symlink_to("file")
    (inner / "out").symlink_to("../secret")
    (inner / "folder").symlink_to("..")
    (inner / "circle").symlink_to("circle")
    assert read_file(inner / "within", 10, inside=inner) == b"file"
    for name in ("out", "folder/secret", "../secret"):
        with pytest.raises(OSError, match="it leads out of the bundle"):
            read_file(inner / name, 10, inside=inner)
    with pytest.raises(OSError, match=r"cannot be followed|symbolic links"):
        read_file(inner / "circle", 10, inside=inner)
    assert read_file(inner / "out", 10) == b"secret"  # the control: it is there to be read


def test_no_file_stays_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for name in ("pipe", "large", "missing", "."):
        with pytest.raises(OSError, match=r"pipe|bytes|No such file|folder"):
            read_file(tmp_path / name, 4)
    assert not before or len(os.listdir("/proc/self/fd")) == before
