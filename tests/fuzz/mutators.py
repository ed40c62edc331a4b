"""Inputs made of valid ones with the structure kept: a JSON tree's values, an archive's members, a table's words.

A byte changed at random rarely comes past the first check: JSON stays no JSON, and an archive's checksum fails. Each function here takes
a file's bytes, a random generator and ``raw``, which changes bytes without knowing what they are, and returns another file.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

Raw = Callable[[bytes], bytes]
Mutator = Callable[[bytes, Random, Raw], bytes]

# What programs stumble over, in the place of any value.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 17, 255, -(2**31), 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"),
    float("inf"), float("-inf"), "", " ", "0", "1", "-1", "nan", "x" * 5000, "\x1b[31m", "\x00", "é\u202e", "\ud800", "../..", "/", [], {},
    [[]], [None], [0, 0], [0] * 17, [0] * 51, [[0, 0]] * 17, {"": 0}, [[[[[[]]]]]],
)  # fmt: skip
WORDS = (
    "", "0", "-1", "1", "17", "nan", "inf", "-inf", "1e999", "1e-999", "1_2", "99999999999999999999", "0x10", "½", "٣", "{", "}", "[", "]",
    ":", ",", '"', "'", "#", "\t", "\x1b[31m", "\x00", "\u2028", "\ufeff", "x" * 3000, "ROOT", "JOINT", "End Site", "OFFSET", "CHANNELS",
    "MOTION", "Frames:", "mm", "null",
)  # fmt: skip
TYPES = ("f2", "f4", "f8", "g", "i1", "i8", "u1", "u8", "?", "c8", "U3", "S3", "M8[s]", "m8[ns]", "V8", ">f8", "i4,f4", "O")
NUMBERS = (0.0, -1.0, 1.5, 1e30, -1e30, float("nan"), float("inf"), 2.0**31, 1e-30)


def blind(random: Random) -> Raw:
    """Return a ``raw`` of our own, for where there is no fuzzer's."""

    def changed(data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(random.choice((1, 1, 2, 4, 8))):
            at = random.randrange(len(out) + 1)
            match random.randrange(6):
                case 0 if out:
                    out[at % len(out)] ^= 1 << random.randrange(8)
                case 1 if out:
                    out[at % len(out)] = random.randrange(256)
                case 2:
                    out[at:at] = random.randbytes(random.choice((1, 4, 8)))
                case 3:
                    del out[at : at + random.choice((1, 4, 64))]
                case 4:
                    out[at:at] = out[at : at + random.choice((1, 8, 64))]
                case _:
                    out[at : at + 4] = random.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"\xff\xff\xff\x7f"))
        return bytes(out)

    return changed


def as_bytes(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change bytes as they are."""
    return raw(data)


# JSON.


def as_json(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change the values, names and shape of a JSON document; now and then its bytes."""
    if random.random() < 0.1:
        return raw(data)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        tree = json_changed(tree, random)
    return _dumped(tree, data)


def _dumped(tree: Any, otherwise: bytes) -> bytes:
    try:
        return json.dumps(tree).encode()
    except RecursionError:  # nested more deeply with every change
        return otherwise


def as_json_lines(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change one line's document, or the lines' order."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    if random.random() < 0.7:
        lines[at] = as_json(lines[at], random, raw)
    else:
        lines = _shuffled(lines, random)
    return b"\n".join(lines)


def json_changed(tree: Any, random: Random) -> Any:
    """Return a tree with something in it changed. Its parts may be shared with the old one, which is not altered."""
    if isinstance(tree, dict) and tree and random.random() < 0.9:
        key = random.choice(list(tree))
        match random.randrange(12):
            case 0:
                return {name: value for name, value in tree.items() if name != key}
            case 1:
                name = random.choice((key + "x", key.upper(), "", "\x1b[2J", str(random.choice(VALUES))[:40], random.choice(list(tree))))
                return {**tree, name: tree[key]}
            case 2:
                return {**tree, key: tree[random.choice(list(tree))]}
            case _:
                return {**tree, key: json_changed(tree[key], random)}
    if isinstance(tree, list) and tree and random.random() < 0.9:
        at = random.randrange(len(tree))
        match random.randrange(12):
            case 0:
                return [*tree[:at], *tree[at + 1 :]]
            case 1:
                return [*tree[:at], tree[random.randrange(len(tree))], *tree[at:]]
            case 2:
                return tree[:at]
            case 3:
                return [*reversed(tree)] if random.random() < 0.5 else tree * 2
            case _:
                return [*tree[:at], json_changed(tree[at], random), *tree[at + 1 :]]
    if isinstance(tree, str) and random.random() < 0.4:
        at = random.randrange(len(tree) + 1)
        return tree[:at] + random.choice(("\n", "\x07", "é", "'", "{", "0", "/", "..")) + tree[at + random.randrange(2) :]
    if isinstance(tree, int | float) and not isinstance(tree, bool) and random.random() < 0.4:
        return random.choice((lambda: tree + 1, lambda: -tree, lambda: str(tree), lambda: [tree], lambda: bool(tree)))()
    value = random.choice(VALUES)
    return value if random.random() < 0.97 else json.loads("[" * 900 + "]" * 900)


# Text of lines and words.


def as_table(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change words and lines of a text; now and then its bytes."""
    if random.random() < 0.1:
        return raw(data)
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(lines))
        between = "\t" if "\t" in lines[at] else "," if "," in lines[at] else " "
        words = lines[at].split(between)
        which = random.randrange(len(words))
        match random.randrange(8):
            case 0:
                lines = _shuffled(lines, random)
            case 1:
                del words[which]
                lines[at] = between.join(words)
            case 2:
                lines[at] = between.join([*words, words[which]])
            case 3:
                lines[at] = raw(lines[at].encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
            case _:
                words[which] = random.choice(WORDS)
                lines[at] = between.join(words)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _shuffled(lines: list[Any], random: Random) -> list[Any]:
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            return [*lines[:at], *lines[at + 1 :]] or lines
        case 1:
            return [*lines[:at], lines[other], *lines[at:]]
        case 2:
            return lines[: at + 1]
        case _:
            changed = list(lines)
            changed[at], changed[other] = changed[other], changed[at]
            return changed


# Archives of arrays, and of whatever else.


def as_archive(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change the members of a zip, with their checksums made anew: arrays of an npz, pickles; now and then the archive's bytes."""
    if random.random() < 0.08:
        return raw(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # What claims more than the fuzzer's inputs may hold is not unpacked here.
            members = [(i.filename, archive.read(i)) for i in archive.infolist() if i.file_size < 1 << 20][:64]
    except Exception:  # whatever an archive that was changed before leads the reader to
        return raw(data)
    if not members:
        return raw(data)
    for _ in range(random.choice((1, 1, 1, 2))):
        at = random.randrange(len(members))
        name, content = members[at]
        match random.randrange(14):
            case 0 if len(members) > 1:
                del members[at]
            case 1:
                name = random.choice(
                    (name + "x", name.upper(), "", "\x1b[2J.npy", "../" + name, random.choice(members)[0], "a/" * 12 + name)
                )
                members[at] = (name, content)
            case 2:
                members.append((random.choice(("keypoints.npy", "layout.npy", "fps.npy", "image_size.npy", "x.npy", "x")), content))
            case 3 | 4:
                members[at] = (name, raw(content))
            case _:
                members[at] = (name, _member_changed(content, random, raw))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name.replace("\x00", "")), content)
    return out.getvalue()


def _member_changed(content: bytes, random: Random, raw: Raw) -> bytes:
    if content.startswith(b"\x93NUMPY"):
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception:  # an array of objects, or one that was damaged before
            head = content.find(b"\n") + 1
            return (
                content[:head] + as_pickle(content[head:], random, raw) if random.random() < 0.8 else raw(content[:head]) + content[head:]
            )
        return _npy(_array_changed(array, random))
    return as_pickle(content, random, raw) if content[:1] == b"\x80" else raw(content)


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), allow_pickle=True)
    return out.getvalue()


def _array_changed(array: Any, random: Random) -> Any:
    with np.errstate(all="ignore"):
        try:
            match random.randrange(9):
                case 0:
                    return array.astype(random.choice(TYPES))
                case 1:
                    axes = [slice(None)] * array.ndim
                    if axes:
                        axes[random.randrange(len(axes))] = random.choice(
                            (slice(0, 0), slice(0, 1), slice(1, None), 0, slice(None, None, -1))
                        )
                    return array[tuple(axes)]
                case 2:
                    return random.choice((array[None], array.ravel(), array.T, array[..., None]))
                case 3:
                    return np.concatenate([array, array], axis=random.randrange(max(1, array.ndim)))
                case 4:
                    return np.full(random.choice(((), (2,), (17,), (1, 17, 2), (1, 17, 3), (0, 17, 2), (3, 33, 3))), random.choice(NUMBERS))
                case 5 | 6 | 7:
                    changed = np.array(array, np.float64) if array.dtype.kind in "iub" and random.random() < 0.5 else array.copy()
                    changed.reshape(-1)[random.randrange(changed.size) if random.random() < 0.7 else slice(None)] = random.choice(NUMBERS)
                    return changed
                case _:
                    return np.array(
                        random.choice(
                            ("coco17", "mediapipe33", "h36m17", "x" * 400, "\x1b[2J", 30, 0, -1, float("nan"), [640, 480], [0, 0])
                        )
                    )
        except (ValueError, TypeError, OverflowError, IndexError, RuntimeError):  # the last of dates as short texts
            return np.array(random.choice(NUMBERS))


# Pickles, of which none is ever loaded here.


def as_pickle(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change the order, the number and the arguments of a pickle's operations."""
    if random.random() < 0.25:
        return raw(data)
    try:
        starts = [at for _, _, at in pickletools.genops(data)]
    except Exception:  # no longer a pickle
        return raw(data)
    parts = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    if len(parts) < 2:
        return raw(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at, other = random.randrange(len(parts)), random.randrange(len(parts))
        match random.randrange(6):
            case 0:
                del parts[at]
            case 1:
                parts.insert(at, parts[other])
            case 2:
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts[at] = parts[other]
            case 4:
                parts.insert(
                    at,
                    random.choice(
                        (b"N", b"K\x00", b"K\xff", b"]", b"}", b")", b"0", b"2", b"R", b"b", b"\x94", b"X\x01\0\0\0f", b"t", b"(")
                    ),
                )
            case _:
                parts[at] = parts[at][:1] + raw(parts[at][1:])
        if not parts:
            return raw(data)
    return b"".join(parts)


def as_pickle_of_trees(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change a pickle's operations, or write a pickle of a tree of numbers, texts and arrays anew."""
    if random.random() < 0.9:
        return as_pickle(data, random, raw)
    tree: Any = {"a": {"b": [np.zeros((2, 3), random.choice(TYPES[:12])), np.float32(1)]}, "c": (1, "x", None, b"y", bytearray(b"z"))}
    for _ in range(3):
        tree = json_changed(tree, random)
    try:
        return pickle.dumps(tree, random.randrange(6))
    except RecursionError:
        return as_pickle(data, random, raw)


# safetensors: the length of a JSON header, the header, the tensors' bytes.


def as_safetensors(data: bytes, random: Random, raw: Raw) -> bytes:
    """Change the header, the record within it, or the bytes of the tensors."""
    if len(data) < 8 or random.random() < 0.08:
        return raw(data)
    (size,) = struct.unpack("<Q", data[:8])
    try:
        header = json.loads(data[8 : 8 + size])
        record = json.loads(header["__metadata__"]["diffpose-edge"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return raw(data)
    content = data[8 + size :]
    match random.randrange(6):
        case 0:
            content = raw(content)
        case 1:
            header = json_changed(header, random)
        case _:
            header["__metadata__"]["diffpose-edge"] = json.dumps(json_changed(record, random))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content
