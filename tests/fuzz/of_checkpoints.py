"""Checkpoints, PyTorch's and safetensors, the npz files of data sets, and calibrations: what a training or an export is given."""

from __future__ import annotations

from diffpose_edge.calibration.scales_file import calibration_from_json
from diffpose_edge.errors import CalibrationError
from diffpose_edge.reference.checkpoints import denoiser_from_file, frame_encoder_from_file, mixste_from_file, state_dict_from_file
from diffpose_edge.reference.datasets.gmm_files import read_gmm
from diffpose_edge.reference.datasets.mpi_inf_3dhp import read_3dhp_test, read_3dhp_train
from diffpose_edge.reference.datasets.videopose3d import detections_2d, positions_3d
from diffpose_edge.reference.trained import load_conditioned
from tests.fuzz.mutators import as_archive, as_json, as_pickle, as_safetensors
from tests.fuzz.rule import all_of
from tests.fuzz.target import SEEDS, Target, file_of


def read_checkpoint(data: bytes) -> None:
    """A checkpoint, as each of the three networks that it may hold."""
    path = file_of("checkpoint.pth", data)
    state_dict_from_file(path)
    all_of(*(lambda read=read: read(path) for read in (denoiser_from_file, mixste_from_file, frame_encoder_from_file)))


def read_denoiser(data: bytes) -> None:
    """A trained denoiser, with the encoder that goes with it."""
    encoder = file_of("context.safetensors", (SEEDS / "safetensors_context" / "context.safetensors").read_bytes())
    load_conditioned(file_of("denoiser.safetensors", data), encoder)


def read_context(data: bytes) -> None:
    """A trained encoder, with the denoiser that goes with it."""
    denoiser = file_of("denoiser.safetensors", (SEEDS / "safetensors_denoiser" / "denoiser.safetensors").read_bytes())
    load_conditioned(denoiser, file_of("context.safetensors", data))


def read_dataset(data: bytes) -> None:
    """A data set's npz, as each of those that are read."""
    path = file_of("dataset.npz", data)
    all_of(*(lambda read=read: read(path) for read in (positions_3d, detections_2d, read_gmm, read_3dhp_test, read_3dhp_train)))


def read_calibration(data: bytes) -> None:
    """Read the scales of a calibration; one that is accepted says the same after a round trip."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise CalibrationError("refused here: 'calibrate' reads the text out of a bundle") from None
    read = calibration_from_json(text)
    assert calibration_from_json(read.to_json()) == read


TARGETS = (
    Target("calibration", read_calibration, as_json),
    Target("checkpoint_zip", read_checkpoint, as_archive),
    Target("checkpoint_legacy", read_checkpoint, as_pickle),
    Target("safetensors_denoiser", read_denoiser, as_safetensors),
    Target("safetensors_context", read_context, as_safetensors),
    Target("dataset", read_dataset, as_archive),
)
