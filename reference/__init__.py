"""DiffPose in PyTorch, as published: the networks, the released checkpoints, and the diffusion they were trained for."""

from diffpose_edge.extras import require

require("torch")

from diffpose_edge.reference.released import ReleasedDiffPose, load_mixste, load_released, pose_of  # noqa: E402

__all__ = ["ReleasedDiffPose", "load_mixste", "load_released", "pose_of"]
