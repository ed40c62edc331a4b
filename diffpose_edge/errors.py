"""The errors that a user can cause and can mend.

Every message says what was expected, what came, and what to do. The command line prints them without a traceback and
exits with status 2; any other exception is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import re

from diffpose_edge.plain_text import fit

# Where an object lies in memory, which some libraries tell in their errors.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Their texts speak to whoever wrote the program: indices, attributes, arguments.
_PROGRAMMING = (TypeError, AttributeError, LookupError, AssertionError, RecursionError)
_PROGRAMMERS_WORDS = re.compile("values to unpack|invalid literal|inhomogeneous")


class DiffPoseEdgeError(Exception):
    """Base of every error that the user of this package can mend.

    Messages quote files and peers: whatever those hold, a message is of bounded length, has no character that leads a terminal, and no
    address of memory.
    """

    def __init__(self, *told: object):
        super().__init__(*(_ADDRESS.sub("", fit(part)) if isinstance(part, str) else part for part in told))


def told_by(err: BaseException) -> str:
    """Return what another library's error says of a file, as far as it says it to the file's owner: its first line, of 200 characters."""
    text = (str(err).strip().splitlines() or [""])[0]
    if not text or isinstance(err, _PROGRAMMING) or _PROGRAMMERS_WORDS.search(text):
        return f"something in it is missing, or is not what belongs there ({type(err).__name__})"
    return text[:200]


class CheckpointError(DiffPoseEdgeError):
    """A checkpoint cannot be read, or is not the network that was asked for."""


class BundleError(DiffPoseEdgeError):
    """A bundle is incomplete, altered, of a newer format, or not a bundle."""


class SignatureError(DiffPoseEdgeError):
    """A bundle is not signed, not by whom it should be, or not the one that was asked for; or a key cannot be used."""


class KeypointError(DiffPoseEdgeError):
    """2D keypoints have the wrong shape, or values that no detector means."""


class CameraError(DiffPoseEdgeError):
    """A camera's numbers cannot be those of a camera, or its file cannot be read, or a pixel is none of its own."""


class PoseFileError(DiffPoseEdgeError):
    """A file of 3D poses is not in its format, or holds what no pose is."""


class DatasetError(DiffPoseEdgeError):
    """A data set file is not in the layout that it should have, or would need code to be run to be read."""


class TimestepError(DiffPoseEdgeError):
    """The timesteps of the reverse process are not a decreasing sequence within the schedule."""


class EvaluationError(DiffPoseEdgeError):
    """An evaluation set is not in the layout that it should have."""


class OutputError(DiffPoseEdgeError):
    """A result cannot be written where it was asked for."""


class FolderBusy(OutputError):
    """Another process is altering the folder; the message names it."""


class MissingPackage(DiffPoseEdgeError):
    """An optional package is not installed; the message names the pip command."""


class ExportError(DiffPoseEdgeError):
    """An export was asked for that cannot be made."""


class LintError(DiffPoseEdgeError):
    """A file cannot be inspected: it is not there, not ONNX, damaged or incomplete; or the target is not known."""


class VerificationError(DiffPoseEdgeError):
    """A freshly exported graph does not reproduce PyTorch: the export is refused."""


class CalibrationError(DiffPoseEdgeError):
    """A calibration cannot be read, or belongs to another network."""


class CudaError(DiffPoseEdgeError):
    """There is no usable GPU or driver, or CUDA refused something; the message has the driver's own explanation."""


class EngineError(DiffPoseEdgeError):
    """An engine cannot be built, read or run."""


class EngineMismatch(EngineError):
    """There is no engine that fits this machine, TensorRT, bundle and precision; the message has the command that builds one."""


class BudgetError(DiffPoseEdgeError):
    """A time budget cannot be kept on this machine, or nothing was measured that it could be judged by."""


class BagError(DiffPoseEdgeError):
    """A ROS 2 bag cannot be read, or has not the topics that were asked for."""


class BridgeError(DiffPoseEdgeError):
    """A bridge to another system cannot be opened: a domain, a topic or a port is not to be had."""


class NumericalError(DiffPoseEdgeError):
    """A network's result is no number, or too large for a pose.

    ``person``: the row of the estimate, 0 the first; ``step``: the reverse step k that gave it, None where the context encoder did;
    ``timestep`` and ``sample`` of that step. docs/reliability.md.
    """

    def __init__(self, why: str, person: int = 0, step: int | None = None, timestep: int | None = None, sample: int | None = None):
        super().__init__(why)
        self.person, self.step, self.timestep, self.sample = person, step, timestep, sample


class RuntimeClosed(DiffPoseEdgeError):
    """A runtime was used after ``close()``."""


class WrongProcess(DiffPoseEdgeError):
    """A runtime, a stream or a bridge was used in, or sent to, another process than the one that made it."""


class TrainingError(DiffPoseEdgeError):
    """A training cannot be started, or cannot go on from what is on disk."""


class VideoError(DiffPoseEdgeError):
    """A video cannot be opened, is damaged, or shows nobody."""


class DetectorError(DiffPoseEdgeError):
    """The detector's environment cannot be made, or its process does not start, fails, or says what it should not."""


class ViewError(DiffPoseEdgeError):
    """Results cannot be shown: they are not what 'run' writes, do not belong together, or are too many for one page."""
