"""What each TensorRT reads: one table, and where every entry was found.

"operators.md" and "Changelog.md" are those of onnx/onnx-tensorrt at the release that is named; "importer" is the source of
its QuantDequantLinearHelper. "Measured" means that TensorRT-RTX 1.7.1 parsed and built a small graph made for the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx import TensorProto as T

from diffpose_edge.errors import LintError

Uint8 = Literal["refused", "read as int8"]

# Types that a graph's inputs may have. 8.6: operators.md 8.6 names these, UINT8 for inputs and outputs since Changelog 8.5.
_TYPES_8 = frozenset({T.FLOAT, T.FLOAT16, T.DOUBLE, T.INT8, T.UINT8, T.BOOL, T.INT32, T.INT64})
# BF16: Changelog 9.0. int16, uint16, uint32, uint64 and strings are refused when an input or an initialiser has them (measured).
_TYPES_9 = _TYPES_8 | {T.BFLOAT16}

# Quantised types: INT8 in operators.md 8.6; FP8 in 9.2; INT4 since Changelog 10.0; FP4 since Changelog 10.8.
_FP8 = frozenset({T.FLOAT8E4M3FN})
_QUANTISED_8 = frozenset({T.INT8})
_QUANTISED_10 = _QUANTISED_8 | _FP8 | {T.INT4}
_QUANTISED_10_8 = _QUANTISED_10 | {T.FLOAT4E2M1}


@dataclass(frozen=True)
class Target:
    """One TensorRT, as far as it decides which graphs it reads."""

    name: str
    title: str
    version: tuple[int, int]  # the place in the history of the parser; RTX is counted as the 11 that it was made with
    max_opset: int  # the newest that its list of operators speaks of; the parser itself looks at no upper limit (measured)
    min_opset: int
    max_ir: int  # the IR of the ONNX release that its parser was built with
    strongly_typed_only: bool  # no FP16 and INT8 builder flags: the graph's own types decide
    int64_bindings: bool  # an int64 input is bound as int64; before 9.0 as int32
    needs_zero_point: bool  # Q/DQ must have three inputs
    int8_weights: bool  # an int8 initialiser may go straight into DequantizeLinear
    float16_scales: bool  # a Q/DQ scale may be float16
    uint8: Uint8  # what becomes of a uint8 zero point
    tensor_types: frozenset[int]
    quantised_types: frozenset[int]
    rtx: bool = False


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "8.6",
            "TensorRT 8.6 (JetPack 6.0)",
            (8, 6),
            max_opset=17,  # operators.md 8.6: "up to Opset 17"
            min_opset=7,  # the parser warns below 7 (its message is the same up to RTX 1.7.1, measured)
            max_ir=8,  # Changelog 8.6 GA: ONNX 1.13.1
            strongly_typed_only=False,
            int64_bindings=False,  # Changelog 9.0 EA: "prior to this release, such models required INT32 bindings"
            needs_zero_point=True,  # importer 8.x: "requires 3 inputs"
            int8_weights=False,  # Developer Guide 8.6, Quantized Weights: they must be FP32; the builder: "invalid weights type of Int8"
            float16_scales=False,  # importer 8.x reads the scale as float32 whatever its type
            uint8="refused",  # importer 8.x: notInvalidType(..., {"UINT8"})
            tensor_types=_TYPES_8,
            quantised_types=_QUANTISED_8,
        ),
        Target(
            "10.3",
            "TensorRT 10.3 (JetPack 6.1, 6.2)",
            (10, 3),
            max_opset=19,  # operators.md 9.2 says 19, 10.6 says 22; that of 10.3 was not seen, so the older
            min_opset=9,  # operators.md 10.6: "inclusive range of opset 9 to"
            max_ir=9,  # Changelog: ONNX 1.14 in 9.0, 1.17 in 10.6; the older
            strongly_typed_only=False,
            int64_bindings=True,  # Changelog 9.0 EA
            needs_zero_point=False,  # importer 9.x: "at least 2 inputs"
            int8_weights=True,  # NVIDIA TensorRT documentation, Explicit Quantization, Quantized Weights
            float16_scales=True,  # importer 9.x reads FP32, FP16 and BF16 scales
            uint8="refused",  # importer 9.x: notInvalidType(..., {"UINT8"})
            tensor_types=_TYPES_9,
            quantised_types=_QUANTISED_10,
        ),
        Target(
            "10.13",
            "TensorRT 10.13 (JetPack 7.0, 7.1)",
            (10, 13),
            max_opset=22,  # operators.md 10.8 says 22, 10.15 says 24; the older
            min_opset=9,
            max_ir=11,  # Changelog 10.11: ONNX 1.18
            strongly_typed_only=False,
            int64_bindings=True,
            needs_zero_point=False,
            int8_weights=True,
            float16_scales=True,
            uint8="read as int8",  # Changelog 10.10: UINT8 constants are imported for Q/DQ; importer 10.x: "Defaulting to INT8"
            tensor_types=_TYPES_9,
            quantised_types=_QUANTISED_10_8,
        ),
        Target(
            "10.16",
            "TensorRT 10.16 (JetPack 7.2)",
            (10, 16),
            max_opset=24,  # operators.md 10.15
            min_opset=9,
            max_ir=11,  # Changelog 10.11 is the last that names one: ONNX 1.18
            strongly_typed_only=False,
            int64_bindings=True,
            needs_zero_point=False,
            int8_weights=True,
            float16_scales=True,
            uint8="read as int8",
            tensor_types=_TYPES_9,
            quantised_types=_QUANTISED_10_8,
        ),
        Target(
            "11.4",
            "TensorRT 11.4",
            (11, 4),
            max_opset=25,  # NVIDIA TensorRT documentation, ONNX Opset Guide, 11.x: 9 to 25
            min_opset=9,
            max_ir=13,  # the same guide: ONNX 1.20
            strongly_typed_only=True,  # 11.0 removed the flags for weak typing
            int64_bindings=True,
            needs_zero_point=False,
            int8_weights=True,
            float16_scales=True,
            uint8="read as int8",
            tensor_types=_TYPES_9,
            quantised_types=_QUANTISED_10_8,
        ),
        Target(
            "rtx",
            "TensorRT-RTX 1.7.1",
            (11, 0),
            max_opset=27,  # measured: it has importers for operators of opset 27, none for those that 28 added
            min_opset=7,  # measured: it warns below 7
            max_ir=14,  # measured: 3 to 15 are read without a word; 14 is the newest that there is
            strongly_typed_only=True,
            int64_bindings=True,  # measured: "Make sure input x has Int64 binding"
            needs_zero_point=False,  # measured, as everything below
            int8_weights=True,
            float16_scales=True,
            uint8="read as int8",
            tensor_types=_TYPES_9,
            quantised_types=_QUANTISED_10_8,
            rtx=True,
        ),
    )
}


def target_of(name: str) -> Target:
    """Return the target called ``name``. Raises LintError naming those that there are."""
    try:
        return TARGETS[name]
    except KeyError:
        raise LintError(f"expected a target out of {', '.join(TARGETS)}, got {name!r}") from None


# Operators that no list up to 11.0 marks as supported, and that TensorRT-RTX 1.7.1 has no importer for (measured).
# operators.md 8.6, 9.2, 10.8, 10.15 and 11.0 mark those that they name with N.
_NEVER = (
    "AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress "
    "ConcatFromSequence ConvInteger CumProd DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool "
    "MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv "
    "QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength "
    "SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit SwiGLU TfIdfVectorizer "
    "Unique CausalConvWithState LinearAttention"
)
NEVER = frozenset(_NEVER.split())
# The release whose Changelog says that the operator was added, or whose operators.md is the first of those above to list it.
SINCE: dict[str, tuple[int, int]] = {
    "CastLike": (9, 2),
    "Hardmax": (9, 2),
    "DeformConv": (10, 1),
    "BlackmanWindow": (10, 4),
    "HammingWindow": (10, 4),
    "HannWindow": (10, 4),
    "STFT": (10, 5),
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "Swish": (11, 0),
}
# Not in operators.md 9.2, but in 10.6; no Changelog says which release in between added them.
UNDATED: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {"Gelu": ((9, 2), (10, 6)), "Mish": ((9, 2), (10, 6))}
# TensorRT-RTX ships none of the plugins that these are imported as (measured: "plugin was not found").
NOT_IN_RTX = frozenset({"NonZero", "RoiAlign", "DeformConv"})
# Read by the parser though ONNX removed them, or never had them beyond experiments (operators.md of every release).
OLD_NAMES = frozenset({"ImageScaler", "ParametricSoftplus", "ScaledTanh", "Scatter", "Upsample"})
# Operators that compute on integers by themselves; the parser wants the quantise-dequantise form instead.
INTEGER_OPERATORS = frozenset({"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
