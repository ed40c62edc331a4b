"""Checkpoints that would take more memory than they have bytes, or run code: refused before either."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpose_edge.errors import CheckpointError
from diffpose_edge.reference.checkpoints import denoiser_from_file, frame_encoder_from_file, mixste_from_file, state_dict_from_file
from diffpose_edge.reference.safetensors_files import load_trained

READERS: dict[str, Callable[[Path], object]] = {
    "denoiser": denoiser_from_file,
    "frame encoder": frame_encoder_from_file,
    "video encoder": mixste_from_file,
    "trained": load_trained,
}


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    for new in (True, False):
        torch.save({"a": Touch(tmp_path / "ran")}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match="asks to run code, which is refused"):
            state_dict_from_file(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception, match=r"NoneType|ran"):  # the control: PyTorch runs it where it is told to
        torch.load(tmp_path / "a.pth", weights_only=False)["a"].open()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, reader: str, kind: str) -> None:
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    with pytest.raises(CheckpointError):
        READERS[reader](path)


def packed(source: Path, out: Path) -> Path:
    """The same checkpoint with every record deflated, which PyTorch's reader unpacks and its writer never does."""
    with zipfile.ZipFile(source) as stored, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for info in stored.infolist():
            archive.writestr(info.filename, stored.read(info))
    return out


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(20 << 20)}, tmp_path / "plain.pth")
    bomb = packed(tmp_path / "plain.pth", tmp_path / "bomb.pth")
    assert bomb.stat().st_size < 1 << 18
    assert torch.load(bomb, weights_only=True)["a"].numel() == 20 << 20  # the control: PyTorch would unpack it
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"would unpack to 8388\d{4}: PyTorch packs nothing; refused"):
            state_dict_from_file(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_tensors_that_repeat_their_values_are_refused_by_their_size(tmp_path: Path) -> None:
    """A thousand bytes with a shape of four terabytes: the values are one, and the steps between them zero."""
    torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"its tensors claim 4398046511104: some repeat their values"):
        state_dict_from_file(tmp_path / "a.pth")


def test_one_storage_under_many_names_is_refused_by_the_sum(tmp_path: Path) -> None:
    shared = torch.zeros(1 << 16)
    torch.save({f"a{i}": shared for i in range(1000)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="its tensors claim 262144000"):
        state_dict_from_file(tmp_path / "a.pth")


def test_names_that_ask_for_a_deep_and_wide_network_take_no_memory(golden: Any, tmp_path: Path) -> None:
    """A first layer 8192 wide and 64 names of layers, some 80 GB of parameters, in a file of half a megabyte."""
    weights = {"gconv_input.weight": torch.zeros(3, 1, 5, 8192), "gconv_output.weight": torch.zeros(3, 1, 8192, 5)}
    weights |= {f"gconv_layers.{i}.x": torch.zeros(1) for i in range(64)}
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: it names 64 layers and has 66 tensors: most of them are missing"):
        denoiser_from_file(tmp_path / "a.pth")
    assert denoiser_from_file(golden.denoiser).hidden == 32  # the control


SAFETENSORS = {
    "a header of gigabytes": (1 << 40).to_bytes(8, "little") + b"{}",
    "a header longer than the file": (1000).to_bytes(8, "little") + b"{}",
    "values that are not there": b'{"a":{"dtype":"F32","shape":[1048576,1048576],"data_offsets":[0,4398046511104]}}',
    "values twice": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "brackets": b'{"__metadata__":{"diffpose-edge":"' + b"[" * 100_000 + b'"}}',
    "a deep header": b"[" * 100_000,
    "terminal": b'{"__metadata__":{"diffpose-edge":"{\\"network\\": \\"\\\\u001b[2J\\", \\"config\\": {}}"}}',
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    content = SAFETENSORS[name]
    if not name.startswith("a header"):
        content = len(content).to_bytes(8, "little") + content + bytes(4)
        if b"__metadata__" in content:
            content = content[:-4]
    (tmp_path / "a.safetensors").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"a\.safetensors") as refused:
            load_trained(tmp_path / "a.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_stream_of_bytes_that_is_cut_off_is_refused(golden: Any, tmp_path: Path) -> None:
    content = Path(golden.denoiser).read_bytes()
    for length in range(0, len(content), len(content) // 7):
        (tmp_path / "a.pth").write_bytes(io.BytesIO(content).read(length))
        with pytest.raises(CheckpointError):
            denoiser_from_file(tmp_path / "a.pth")
