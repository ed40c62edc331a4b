"""Checkpoints in the released formats: loaded strictly, written back bit for bit, and refused with a reason when they are bad."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffpose_edge.errors import CheckpointError
from diffpose_edge.reference import checkpoints
from diffpose_edge.reference.checkpoints import denoiser_from_file, frame_encoder_from_file, mixste_from_file
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MixSTE

LOADERS = {"denoiser": denoiser_from_file, "context": frame_encoder_from_file, "mixste": lambda path: mixste_from_file(path, heads=4)}


@pytest.fixture(scope="module")
def weights(golden: SimpleNamespace) -> dict[str, dict[str, Tensor]]:
    """The golden weights without prefix, read with plain torch.load."""
    contents = {name: torch.load(getattr(golden, name), weights_only=True) for name in LOADERS}
    dicts = {name: content["model_pos"] if isinstance(content, dict) else content[0] for name, content in contents.items()}
    return {name: {k.removeprefix("module."): v for k, v in found.items()} for name, found in dicts.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    path = tmp_path / "weights.pth"
    return lambda content: torch.save(content, path) or path


def same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(actual) == list(expected) and all(torch.equal(actual[k], v) and actual[k].dtype == v.dtype for k, v in expected.items())


def refused(load: Callable[[Path], Any], path: Path, *words: str) -> str:
    """Load ``path``, expect a CheckpointError that names the file and says each of ``words``."""
    with pytest.raises(CheckpointError) as err:
        load(path)
    message = str(err.value)
    missing = [word for word in (path.name, *words) if word not in message]
    assert not missing, f"{missing} not in: {message}"
    return message


@pytest.mark.parametrize("name", LOADERS)
def test_golden_checkpoint_loads_every_tensor_and_infers_the_size(golden, weights, name):
    network = LOADERS[name](getattr(golden, name))
    assert same(dict(network.state_dict()), weights[name])
    size = (network.width, network.depth) if name == "mixste" else (network.hidden, network.layers)
    assert size == (32, 2)
    assert network.heads == 4
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    if name == "mixste":
        assert network.frames == 9


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("form", ["list of 4", "list of 5", "model_pos", "bare"])
def test_every_released_form_is_read(weights, saved, form, prefix):
    inner = {prefix + k: v for k, v in weights["denoiser"].items()}
    decoy = {k: torch.zeros_like(v) for k, v in inner.items()}
    content = {
        "list of 4": [inner, {"state": {}}, 3, 100],
        # The fifth entry holds averaged weights: those to load are the first.
        "list of 5": [inner, {"state": {}}, 3, 100, decoy],
        "model_pos": {"epoch": 3, "lr": 1e-4, "model_pos": inner},
        "bare": inner,
    }[form]
    assert same(checkpoints.state_dict_from_file(saved(content)), weights["denoiser"])
    assert same(dict(denoiser_from_file(saved(content)).state_dict()), weights["denoiser"])


@pytest.mark.parametrize("name", LOADERS)
def test_what_save_released_writes_is_read_back_bit_for_bit(golden, weights, tmp_path, name):
    path = tmp_path / "again.pth"
    checkpoints.save_released(LOADERS[name](getattr(golden, name)), path)
    assert same(dict(LOADERS[name](path).state_dict()), weights[name])
    content = torch.load(path, weights_only=True)
    inner = content["model_pos"] if name == "mixste" else content[0]
    assert all(key.startswith("module.") for key in inner)
    assert os.listdir(tmp_path) == ["again.pth"]


@pytest.mark.parametrize(
    ("network", "which", "parameters"),
    [(Denoiser, "denoiser", 1_025_674), (FrameEncoder, "frame", 839_432), (MixSTE, "MixSTE", 33_783_811)],
)
def test_full_size_network_has_exactly_the_released_keys(network, which, parameters):
    path = Path(__file__).parents[1] / "data" / "state_dict_keys.json"
    [expected] = [shapes for title, shapes in json.loads(path.read_text()).items() if which in title.split("(")[0]]
    with torch.device("meta"):
        built = network()
    assert {k: list(v.shape) for k, v in built.state_dict().items()} == expected
    assert sum(p.numel() for p in built.parameters()) == parameters


def test_missing_file_and_folder_are_named(tmp_path):
    refused(denoiser_from_file, tmp_path / "nowhere.pth", "no checkpoint", "path")
    refused(denoiser_from_file, tmp_path, "folder")


@pytest.mark.parametrize("fraction", [0.0, 0.0001, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.99999])
@pytest.mark.parametrize("name", LOADERS)
def test_truncated_file_is_refused(golden, tmp_path, name, fraction):
    whole = getattr(golden, name).read_bytes()
    path = tmp_path / "part.pth"
    path.write_bytes(whole[: int(len(whole) * fraction)])
    refused(LOADERS[name], path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_refused(tmp_path):
    rng = random.Random(0)
    for i in range(300):
        path = tmp_path / f"noise{i}.pth"
        path.write_bytes(rng.randbytes(rng.choice([1, 2, 4, 8, 16, 64, 512])))
        refused(denoiser_from_file, path)


@pytest.mark.parametrize("text", ["<html>404: Not Found</html>", "Go away", "Moved", "a", "Xaaa", "version https://git-lfs.github.com\n"])
def test_text_file_is_refused(tmp_path, text):
    (tmp_path / "page.pth").write_text(text)
    refused(denoiser_from_file, tmp_path / "page.pth")


def test_damaged_index_raises_nothing_but_a_checkpoint_error(golden, tmp_path):
    """A bit flipped in the pickled index leads to many kinds of error; a flip that changes no meaning may load."""
    whole, rng = golden.denoiser.read_bytes(), random.Random(0)
    begin = whole.index(b"data.pkl")
    for i in range(300):
        damaged = bytearray(whole)
        damaged[begin + rng.randrange(6000)] ^= 1 << rng.randrange(8)
        path = tmp_path / f"damaged{i}.pth"
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(CheckpointError):
            denoiser_from_file(path)


def test_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "not a checkpoint")
    refused(denoiser_from_file, tmp_path / "other.pth")


class _Bomb:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["plain pickle", "in a checkpoint", "old torch format"])
def test_code_in_a_checkpoint_is_refused_and_not_run(weights, tmp_path, form):
    path, marker = tmp_path / "bomb.pth", tmp_path / "was_run"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(_Bomb(marker), protocol=2))
    else:
        torch.save([weights["denoiser"], _Bomb(marker)], path, _use_new_zipfile_serialization=form == "in a checkpoint")
    refused(denoiser_from_file, path, "run code")
    assert not marker.exists()
    if form == "plain pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists(), "read without care, it goes off"


@pytest.mark.parametrize("content", [[], {}, None, 3, [1, 2], torch.zeros(3), {"model": {}}, [{"a": 1}], {"model_pos": {}}], ids=repr)
def test_other_content_is_refused_saying_what_was_expected(saved, content):
    refused(denoiser_from_file, saved(content), "expected the released form", "model_pos")


@pytest.mark.parametrize(("load", "given"), [(a, b) for a in LOADERS for b in LOADERS if a != b])
def test_another_networks_checkpoint_is_refused(golden, tmp_path, load, given):
    path = Path(shutil.copy(getattr(golden, given), tmp_path / "other.pth"))
    refused(LOADERS[load], path, {"denoiser": "denoiser", "context": "frame context encoder", "mixste": "MixSTE"}[load], "is not a")


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("change", ["missing", "extra", "shape", "scalar"])
def test_key_that_does_not_fit_is_named(weights, saved, name, place, change):
    changed = dict(weights[name])
    key = list(changed)[{"first": 0, "middle": len(changed) // 2, "last": -1}[place]]
    if change == "missing":
        del changed[key]
    elif change == "extra":
        key = f"{key}.more"
        changed[key] = torch.zeros(3)
    else:
        changed[key] = torch.zeros((*changed[key].shape, 2)) if change == "shape" else torch.tensor(1.0)
    refused(LOADERS[name], saved(changed), key)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(weights, saved, name, bad):
    key = list(weights[name])[-3]
    changed = {k: v.clone() for k, v in weights[name].items()}
    changed[key].view(-1)[-1] = bad
    refused(LOADERS[name], saved(changed), key, "finite")


@pytest.mark.parametrize("kind", ["int64", "bool", "complex64", "float64 beyond float32", "sparse", "meta"])
def test_tensors_that_cannot_be_weights_are_named(weights, saved, kind):
    key, bias = "gconv_input.bias", weights["denoiser"]["gconv_input.bias"]
    odd = {
        "float64 beyond float32": lambda: torch.full_like(bias, 1e300, dtype=torch.float64),
        "sparse": bias.to_sparse,
        "meta": lambda: bias.to("meta"),
    }.get(kind, lambda: bias.to(getattr(torch, kind)))()
    refused(denoiser_from_file, saved({**weights["denoiser"], key: odd}), key)


@pytest.mark.parametrize(("name", "key"), [("denoiser", "gconv_input.weight"), ("mixste", "Temporal_pos_embed")])
@pytest.mark.parametrize("width", [0, 10**6])
def test_impossible_width_is_refused(weights, saved, name, key, width):
    stretched = torch.zeros(1).expand((*weights[name][key].shape[:-1], width))
    refused(LOADERS[name], saved({**weights[name], key: stretched}))


@pytest.mark.parametrize("key", ["gconv_input.weight", "Temporal_pos_embed", "STEblocks.0.mlp.fc1.weight"])
def test_size_is_not_inferred_from_a_scalar(weights, saved, key):
    name = "denoiser" if key in weights["denoiser"] else "mixste"
    refused(LOADERS[name], saved({**weights[name], key: torch.tensor(1.0)}), key)


@pytest.mark.parametrize("heads", [5, 0, -4, 64])
@pytest.mark.parametrize("name", LOADERS)
def test_head_count_that_does_not_divide_is_refused_with_those_that_do(golden, name, heads):
    load = {"denoiser": denoiser_from_file, "context": frame_encoder_from_file, "mixste": mixste_from_file}[name]
    with pytest.raises(CheckpointError, match=rf"(?s)got {heads}\b.*\[1, 2, 4, 8, 16, 32\]"):
        load(getattr(golden, name), heads)


def test_a_tensor_with_and_without_prefix_is_refused(weights, saved):
    both = {**weights["denoiser"], "module.gconv_input.bias": weights["denoiser"]["gconv_input.bias"]}
    refused(LOADERS["denoiser"], saved(both), "gconv_input.bias", "module.")


def test_a_video_encoder_of_one_frame_is_refused(weights, saved):
    one = {**weights["mixste"], "Temporal_pos_embed": weights["mixste"]["Temporal_pos_embed"][:, :1]}
    refused(LOADERS["mixste"], saved(one), "at least 2 frames")
