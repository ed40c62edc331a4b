"""Texts without what may be private: only words of programs stay, and small whole numbers.

What an error says may hold anything: a path with somebody's name in it, a value, a password that was taken for a mode. No pattern finds
all that is private; so it goes the other way round, and what stays is what is known to be public: the words of WORDS, and those of the
program's own texts, which the caller gives. Everything else is an ellipsis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import CodeType

MOST_CHARACTERS = 400
GONE = "…"

# What Python, numpy, ONNX Runtime and CUDA say of shapes, types, memory and files.
_WORDS = """
a aborted access active add after aligned alignment all allocate allocation allowed already ambiguous an and any argument arguments
array arrays as assertion assignment at attempt attribute attributes available axes axis bad be because been before between bool
boolean both bounds broadcast buffer bus but by byte bytes call callable called can cannot cast channel channels check closed code
codec column complex concatenation condition connection context contiguous convert could count cpu cublas cuda cudnn current data dead
deadlock decode default denied destroyed device dictionary different dimension dimension's dimensions directory divide division does
dtype during each element elements empty encode end engine entry errno error event exactly exceeded exception execution
executionprovider existing exists expected fail failed failure false fatal fault file files first float float16 float32 float64
floating folder following for found fp16 fp32 from full function future given gpu graph greater had has have id if illegal image
immutable import in incompatible index indices inf infinite infinity inhomogeneous initialize input inputs insert instance instruction
int int16 int32 int64 int8 integer invalid invalid_argument is it item iterable iterator its kernel key keys keyword killed last
launch layout least left length less limit list load lock loop match matching matmul maximum may memory message method minimum
mismatch missing model module modulo more most must name named nan negative new nil no node nodes none nonetype not null number
numbers object of offset on one only onnx onnxruntime onnxruntimeerror open operand operands operation operator or other out output
outputs over overflow parameter permission point pointer positional positive process provider providers python range rank read
read-only readonly reason recursion reference referenced refused requested required reshape resource result return returned row run
running runtime runtime_exception runtimeerror same scalar second segmentation sequence session set shape shapes should signature size
slice space stack state status step stream stride strides string subscriptable such sum support supported tensor than that the thread
threads time timeout to together too true truth tuple two type typeerror types uint8 unable unexpected unhashable unknown unpack
unpackable unsupported up use used valid value valueerror values variable version wait was when while will with within without
writable write wrong zero
"""
WORDS = frozenset(_WORDS.split())
_PART = re.compile(r"""[^\s()\[\]{}<>,:;="'`|]+|\s+|.""", re.DOTALL)
_ROW = re.compile(rf"{GONE}(?:\s*{GONE})+")
_SMALL = re.compile(r"-?\d{1,4}")


def plain(text: str, known: Iterable[str] = ()) -> str:
    """Return ``text`` with an ellipsis for every word that is neither in WORDS nor ``known``, and for every number but -9999 to 9999."""
    public = WORDS.union(known)
    kept: list[str] = []
    for part in _PART.findall(text[:10_000]):
        word = part.rstrip(".!?").lower()
        private = any(map(str.isalnum, part)) and word not in public and not _SMALL.fullmatch(word)
        kept.append(GONE if private else " " if part.isspace() else part)
    return _ROW.sub(GONE, "".join(kept).strip())[:MOST_CHARACTERS]


def words_of(code: CodeType) -> set[str]:
    """Return the words of the texts that a function is written with: what it says of its own, before values are put in."""
    words: set[str] = set()
    left: list[object] = list(code.co_consts)
    while left:
        constant = left.pop()
        if isinstance(constant, str):
            words |= {part.rstrip(".!?").lower() for part in _PART.findall(constant) if not part.isspace()}
        elif isinstance(constant, tuple | frozenset):
            left += constant
    return words
