"""Every tolerance of the project, each with its reason. Nothing else in the code or the tests says how close is close."""

# Relative tolerances divide the largest error of a tensor by the tensor's largest magnitude.

# Our PyTorch reference against tensors computed by the authors' implementation: the same float32 operations in another
# order. Measured 2.1e-6 at most (state after 50 steps), absolute, on values up to 2.6.
REFERENCE_ABS = 1e-5

# An exported FP32 graph against PyTorch, each named layer output and epsilon, relative: float32 rounding of matmuls over
# up to 3 C = 288 terms, through 5 layers. Measured 2.2e-6 at most. The errors worth finding are much larger: a LayerNorm
# without sqrt(C / (C - 1)) errs 5e-3 in every layer, exchanging q and k in one layer 6e-2 there and 3e-2 in epsilon.
FP32_LAYER_REL = 1e-5

# A graph for the CPU against PyTorch, relative: its LayerNormalization has no epsilon beside the deviation, where the released LayerNorm
# has 1e-6, so a row of deviation s errs by 1e-6 / s. Measured 3e-6 at most on weights drawn anew and on the trained pairs (deviations
# around 1), 3.5e-5 on the authors' untrained weights (0.03). Where it is more, the graph keeps the released form.
FP32_CPU_LAYER_REL = 1e-4

# MixSTE at full size is 16 blocks deep and 512 wide, and its softmax runs over 243 frames: rounding grows with both.
# Measured 1.1e-6 at most over every block, random inputs and weights; the same bound as for the other layers holds.
FP32_VIDEO_LAYER_REL = 1e-5

# The state after each of up to 51 steps, relative: each step adds the rounding of one update, and the schedule damps an
# error in epsilon a hundredfold. Measured 2.7e-6 at most over 50 steps on the real clip, untrained weights; 6.2e-6 by the graphs for
# the CPU, on the authors' untrained weights, where their LayerNorm shows.
FP32_STATE_REL = 3e-5

# The final pose, FP32 graphs against PyTorch: 0.01 mm. Measured 0.003 mm at K = 2 and K = 50 on poses of 0.4 m, all of it
# rounding in the context encoder: against float64, PyTorch's own float32 result errs as much. Untrained weights give
# poses of several metres, and rounding scales with them: hence the relative bound, which takes over above 1 m. By the graphs for the
# CPU: 8.8e-6 on the authors' untrained weights.
FP32_POSE_MM = 0.01
FP32_POSE_REL = 3e-5

# Lower precision, the final pose against PyTorch in FP32, on poses of up to a metre (larger ones: in proportion). Measured on the
# held-out clips, K = 5 and 50, N = 5: see benchmarks/results/precision.json. A pose at a fork of the
# reverse process is the worst: of 192 frames one errs by 3.2 mm in FP16 at K = 50, the next by 0.8 mm. In that frame FP32 itself moves
# by 11 mm when the 2D keypoints move by 1e-4 (a twentieth of a pixel in a picture of 1000), and no layer in float32 mends it. So 3 mm,
# which was the aim, is too little for the worst joint, and INT8 has no bound for it.
FP16_POSE_MEAN_MM = 0.5
FP16_POSE_WORST_MM = 5.0
INT8_POSE_MEAN_MM = 2.0

# The accuracy itself, MPJPE against the truth on held-out frames: how much lower precision may change it, relative to FP32's. Poses err by
# eighty millimetres, and what rounding adds has no direction: it hardly shows in the mean.
FP16_MPJPE_CHANGE = 0.005
INT8_MPJPE_CHANGE = 0.02

# The share of a step's matmul work, in multiply-accumulates, that runs in INT8 at the released size: all but the input and output
# layers, attention's own products, and the mixing of joints. With less of it INT8 would not be worth its error.
INT8_STEP_SHARE = 0.8

# Named layer outputs in lower precision against the FP32 graph, relative to the largest magnitude: enough to catch an overflow, a
# wrong scale, a layer exchanged; how far a layer may err is for the pose to say. FP16 rounds to 5e-4 and errs 3e-3 at most
# after five layers; INT8 rounds to 4e-3 of the range and errs 4e-2.
FP16_LAYER_REL = 2e-2
INT8_LAYER_REL = 0.2

# A mean and covariance over samples against a plain two-pass computation in float64.
AGGREGATE_ABS_M = 1e-6

# One metric computed in two ways in float64, millimetres: one rounding of a pose of some 1000 mm is 2e-13. Measured 3e-13
# at most, and 8e-11 where an alignment undoes a similarity that made the pose a hundred times smaller.
METRIC_ABS_MM = 1e-9

# The same for numbers without a unit (ratios, probabilities, correlations), relative or to 1. Measured 1e-15 at most.
METRIC_REL = 1e-12

# The hip of a truth that is relative to the hip: zero, but for an offset subtracted in float32 at some metres' distance.
ROOT_ABS_M = 1e-5

# A pixel made a ray and projected again, in float64: Newton's last step is rounding, 1e-13 of the focal length. Measured 1e-12 at most;
# 1e-7 of the focal length is where the inverse is refused.
REPROJECTION_ABS_PX = 1e-6

# A person's place from keypoints and joints without noise, against the truth: the least squares end a billionth of the distance
# away from their minimum. Measured 1e-14.
PLACE_ABS_M = 1e-6

# MediaPipe's landmarks of the same images, pixels, against those of the clip that ships. Measured 0 on an x86-64 CPU of the same kind;
# TensorFlow Lite chooses its kernels by the processor, and no other has been measured.
LANDMARK_PX = 1.0

# A pose that went through a file of markers (TRC): nine digits of a position some metres away, and the hip subtracted again. Measured
# 7.5e-8 m at most, within ten metres of the camera: a rounding of float32.
TRC_JOINT_ABS_M = 2e-7

# Forward kinematics of a written BVH against joints whose bones keep their lengths: offsets and angles have six digits after the point,
# 5e-9 m and 9e-9 rad, over chains of at most seven rotations and 1.2 m; float32 joints at 6e-8 besides. Measured 6e-8 m at most.
BVH_JOINT_ABS_M = 1e-6

MILLIMETRES = 1000.0


def pose_budget_mm(largest_m: float) -> float:
    """Return how many millimetres an FP32 pose may differ from PyTorch's, for a pose whose largest coordinate is given (metres)."""
    return FP32_POSE_MM if largest_m <= 1 else FP32_POSE_REL * largest_m * MILLIMETRES


def lower_pose_budget_mm(precision: str, largest_m: float) -> tuple[float, float]:
    """Return how far FP16 or INT8 poses may be from PyTorch's, millimetres: the mean joint, and the worst joint (infinite: no bound)."""
    scale = max(1.0, largest_m)
    if precision == "fp16":
        return FP16_POSE_MEAN_MM * scale, FP16_POSE_WORST_MM * scale
    return INT8_POSE_MEAN_MM * scale, float("inf")


# A quaternion against the rotation that it stands for: float64 rounding of a 4 x 4 eigenproblem. Measured 2e-15 at most on random turns
# and on half turns.
QUATERNION_ABS = 1e-13

# The share of 4000 draws of a Gaussian that its 90 % ellipsoid encloses: a binomial deviation of 0.0047, five of them.
ELLIPSOID_SHARE = 0.025
