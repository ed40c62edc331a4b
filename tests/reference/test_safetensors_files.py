"""Trained networks on disk: read back bit for bit with their record, and refused with a reason when they are not ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diffpose_edge.errors import CheckpointError, OutputError
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MixSTE
from diffpose_edge.reference.random_weights import randomise
from diffpose_edge.reference.safetensors_files import ENTRY, config_record, load_trained, read_safetensors, save_trained

# Every argument is another number, so that two of them exchanged would show.
KINDS: dict[str, Callable[[], nn.Module]] = {
    "denoiser": lambda: Denoiser(24, 2, 3),
    "conditioned denoiser": lambda: Denoiser(24, 2, 3, condition=7),
    "frame encoder": lambda: FrameEncoder(20, 3, 5),
    "frame encoder of 6 channels": lambda: FrameEncoder(20, 3, 5, channels=6),
    "video encoder": lambda: MixSTE(9, 12, 2, 3, 28),
    "video encoder of 6 channels": lambda: MixSTE(9, 12, 2, 3, 28, channels=6),
}
RECORD = {"plan": "none", "seed": 3, "nested": {"table": [[0.1, 2.0]]}, "note": "höher"}


def built(kind: str) -> Any:
    network = KINDS[kind]()
    randomise(network, 5)
    return network.eval()


def output_of(network: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(network, Denoiser):
        condition = [torch.randn(2, 17, w, generator=generator) for w in (network.condition_width, 10)] if network.condition_width else []
        return network(torch.randn(2, 17, 5, generator=generator), 3, *condition)
    shape = (2, 9, 17, network.channels) if isinstance(network, MixSTE) else (2, 17, network.channels)
    return network(torch.randn(*shape, generator=generator))


def refused(path: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as err:
        load_trained(path)
    message = str(err.value)
    missing = [word for word in (path.name, *words) if word not in message]
    assert not missing, f"{missing} not in: {message}"
    return message


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Write a good file with its metadata, or parts of it, replaced."""

    def write(kind: str = "conditioned denoiser", config: Any = None, metadata: Any = None, weights: Any = None, **record: Any) -> Path:
        network, path = built(kind), tmp_path / "odd.safetensors"
        found = {**config_record(network), **record}
        found["config"] = {**found["config"], **(config or {})}
        found["config"] = {k: v for k, v in found["config"].items() if v is not None}
        save_file(
            {k: v.contiguous() for k, v in (network.state_dict() if weights is None else weights(network.state_dict())).items()},
            path,
            metadata={ENTRY: json.dumps(found)} if metadata is None else metadata,
        )
        return path

    return write


# good files


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_saved_is_read_back_bit_for_bit(tmp_path, kind):
    network = built(kind)
    save_trained(network, RECORD, tmp_path / "a.safetensors")
    found = load_trained(tmp_path / "a.safetensors")
    assert type(found.network) is type(network)
    assert config_record(found.network) == config_record(network)
    weights, expected = found.network.state_dict(), network.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[k], v) for k, v in expected.items())
    assert torch.equal(output_of(found.network), output_of(network))
    assert not found.network.training
    assert not any(p.requires_grad for p in found.network.parameters())
    assert {k: found.record[k] for k in RECORD} == RECORD
    assert found.record["network"] in kind
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_same_network_gives_the_same_file(tmp_path):
    for name in "ab":
        save_trained(built("conditioned denoiser"), RECORD, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_record_cannot_hide_what_network_it_is(tmp_path):
    """A record is what the file says beside its network; the reader meets the weights' own config or refuses them."""
    save_trained(built("denoiser"), {"config": {"hidden": 8}}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "config")


def test_a_record_that_is_no_json_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_trained(built("denoiser"), {"loss": float("nan")}, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to_are_named(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="parent folder"):
        save_trained(built("denoiser"), {}, tmp_path / "gone" / "a.safetensors")

    def full(path: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    (tmp_path / "a.safetensors").write_text("older")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_trained(built("denoiser"), {}, tmp_path / "a.safetensors")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


# files that are not ours


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "zip"])
def test_a_file_of_another_kind_is_refused(tmp_path, kind):
    path = tmp_path / "odd.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "zip":
        torch.save({"a": torch.zeros(3)}, path)
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"<html>Not Found</html>"}[kind])
    refused(path, "no checkpoint" if kind == "missing" else "cannot be read")


@pytest.mark.parametrize("fraction", [0.0001, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused(saved, fraction):
    path = saved()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    refused(path, "cannot be read")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"format": "pt"},
        {ENTRY: ""},
        {ENTRY: "{"},
        {ENTRY: "[1]"},
        {ENTRY: '"denoiser"'},
        {ENTRY: "{}"},
        {ENTRY: '{"network": "denoiser"}'},
    ],
    ids=str,
)
def test_a_file_without_our_record_is_refused(saved, metadata):
    refused(saved(metadata=metadata), "expected")


@pytest.mark.parametrize("kind", ["GPT", None, 3, ["denoiser"], "frame encoder", "video encoder"])
def test_another_network_than_it_holds_is_refused(saved, kind):
    refused(saved(network=kind))


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("denoiser", {"hidden": 0}, "hidden"),
        ("denoiser", {"hidden": -24}, "hidden"),
        ("denoiser", {"hidden": 10**9}, "hidden"),
        ("denoiser", {"hidden": 24.0}, "whole numbers"),
        ("denoiser", {"hidden": "24"}, "whole numbers"),
        ("denoiser", {"hidden": True}, "whole numbers"),
        ("denoiser", {"hidden": [24]}, "whole numbers"),
        ("denoiser", {"hidden": 48}, "gconv_input.weight"),
        ("denoiser", {"layers": 0}, "layers"),
        ("denoiser", {"layers": 1}, "atten_layers.1"),
        ("denoiser", {"layers": 3}, "_layers.2"),
        ("denoiser", {"heads": 0}, "heads"),
        ("denoiser", {"heads": 5}, "heads"),
        ("denoiser", {"condition": 4}, "condition"),
        ("denoiser", {"condition": -1}, "condition"),
        ("conditioned denoiser", {"condition": 0}, "condition"),
        ("conditioned denoiser", {"condition": 8}, "condition.weight"),
        ("conditioned denoiser", {"condition": None, "channels": 6}, "channels"),
        ("denoiser", {"layers": None}, "layers"),
        ("denoiser", {"depth": 2}, "depth"),
        ("frame encoder", {"channels": 6}, "gconv_input.weight"),
        ("frame encoder", {"channels": 3}, "channels"),
        ("video encoder", {"frames": 0}, "frames"),
        ("video encoder", {"frames": 10}, "Temporal_pos_embed"),
        ("video encoder", {"depth": 10**6}, "depth"),
        ("video encoder", {"heads": 5}, "heads"),
        ("video encoder", {"mlp_width": 0}, "mlp_width"),
        ("video encoder", {"mlp_width": None}, "mlp_width"),
        ("video encoder", {"mlp_width": 14}, "mlp.fc1.weight"),
        ("video encoder", {"mirror_average": 1}, "mirror_average"),
        ("video encoder", {"width": None}, "width"),
    ],
)
def test_a_config_that_is_not_the_networks_is_refused(saved, kind, config, expected):
    refused(saved(kind, config), expected)


def test_a_config_far_beyond_its_weights_takes_no_memory(saved, monkeypatch):
    """Shapes are compared before anything of that size is made: with 8192 wide and 256 layers it would be terabytes."""
    path = saved("denoiser", {"hidden": 1024, "heads": 4})
    real, largest = torch.empty, []

    def watched(*size: Any, **options: Any) -> torch.Tensor:
        made = real(*size, **options)
        largest.append(made.numel() if made.device.type != "meta" else 0)
        return made

    monkeypatch.setattr(torch, "empty", watched)
    refused(path, "gconv_input.weight")
    assert max(largest, default=0) < 1e6


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "NaN", "integers"])
def test_weights_that_do_not_fit_are_named(saved, change):
    key = "gconv_layers.1.gconv1.gconv.weight"

    def changed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = dict(weights)
        if change == "missing":
            del found[key]
        elif change == "extra":
            found["surplus"] = torch.zeros(3)
        elif change == "shape":
            found[key] = found[key][..., :-1]
        elif change == "NaN":
            found[key] = found[key] * float("nan")
        else:
            found[key] = found[key].to(torch.int64)
        return found

    refused(saved(weights=changed), "surplus" if change == "extra" else key)


def test_the_record_alone_can_be_read(saved):
    weights, record = read_safetensors(saved(plan="tiny"))
    assert record["plan"] == "tiny"
    assert record["config"]["condition"] == 7
    assert len(weights) == len(built("conditioned denoiser").state_dict())


def test_safetensors_hold_what_the_network_holds_and_nothing_else(saved):
    assert load_file(saved("frame encoder")).keys() == built("frame encoder").state_dict().keys()
