"""BVH (Biovision hierarchy) as text: a skeleton of named joints, and rotations over time; with forward kinematics.

``HIERARCHY``, a ``ROOT`` with nested ``JOINT`` and ``End Site``, each with ``OFFSET x y z`` from its parent and ``CHANNELS n names``; then
``MOTION``, ``Frames: n``, ``Frame Time: s``, and a line of numbers for each frame, channel after channel as they are declared, angles in
degrees. Rotations are applied in the order in which the channels stand: "Zrotation Xrotation Yrotation" is R = Rz Rx Ry on columns.

Source: M. Meredith and S. Maddock, "Motion Capture File Formats Explained" (2001); J. Lander, "Working with Motion Capture File Formats"
(1998); University of Wisconsin, CS 838, "Biovision BVH".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import PoseFileError
from diffpose_edge.formats.text_file import lines_of, numbers_in, whole

Array = NDArray[np.float64]
POSITIONS = ("Xposition", "Yposition", "Zposition")
ROTATIONS = ("Xrotation", "Yrotation", "Zrotation")
# Hands with all their fingers make some eighty.
MOST_NODES = 1000


@dataclass(frozen=True)
class Node:
    """A joint: its name, its parent's place in the list (-1 for the root), its offset (3,) from it, and its channels in order."""

    name: str
    parent: int
    offset: tuple[float, float, float]
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Motion:
    """A skeleton, parents before children, and its ``channels`` (frames, channels of all nodes), every ``frame_time`` seconds."""

    nodes: tuple[Node, ...]
    channels: Array
    frame_time: float


def turn(axis: int, radians: Array) -> Array:
    """Return rotations (…, 3, 3) about axis 0, 1 or 2 by angles (…)."""
    matrix = np.zeros((*radians.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1.0
    matrix[..., i, i] = matrix[..., j, j] = np.cos(radians)
    matrix[..., j, i] = np.sin(radians)
    matrix[..., i, j] = -matrix[..., j, i]
    return matrix


def positions(motion: Motion) -> dict[str, Array]:
    """Return where each named joint is in each frame, (frames, 3), in the file's units: forward kinematics."""
    frames = len(motion.channels)
    rotations: list[Array] = []
    places: list[Array] = []
    column = 0
    for node in motion.nodes:
        place, rotation = np.zeros((frames, 3)), np.broadcast_to(np.eye(3), (frames, 3, 3))
        moved = np.zeros((frames, 3))
        for channel in node.channels:
            values = motion.channels[:, column]
            column += 1
            if channel in POSITIONS:
                moved[:, POSITIONS.index(channel)] = values
            else:
                rotation = rotation @ turn(ROTATIONS.index(channel), np.radians(values))
        place = moved + np.array(node.offset)
        if node.parent >= 0:
            place = places[node.parent] + np.einsum("fij,fj->fi", rotations[node.parent], place)
            rotation = rotations[node.parent] @ rotation
        places.append(place)
        rotations.append(rotation)
    return {node.name: place for node, place in zip(motion.nodes, places, strict=True) if node.name}


def motion_lines(motion: Motion, ends: dict[str, tuple[float, float, float]]) -> list[str]:
    """Return the file's lines. ``ends``: the offset of the end site that each joint without children gets."""
    lines = ["HIERARCHY"]
    _describe(motion.nodes, 0, "", ends, lines)
    lines += ["MOTION", f"Frames: {len(motion.channels)}", f"Frame Time: {motion.frame_time!r}"]
    # + 0.0: no minus before zero.
    lines += [" ".join(f"{value:.6f}" for value in row) for row in (np.round(motion.channels, 6) + 0.0).tolist()]
    return lines


def _describe(nodes: Sequence[Node], i: int, indent: str, ends: dict[str, tuple[float, float, float]], lines: list[str]) -> None:
    node, inner = nodes[i], indent + "\t"
    lines += [f"{indent}{'ROOT' if node.parent < 0 else 'JOINT'} {node.name}", f"{indent}{{"]
    lines += [f"{inner}OFFSET {_three(node.offset)}", f"{inner}CHANNELS {len(node.channels)} {' '.join(node.channels)}"]
    children = [c for c, other in enumerate(nodes) if other.parent == i]
    for child in children:
        _describe(nodes, child, inner, ends, lines)
    if not children:
        lines += [f"{inner}End Site", f"{inner}{{", f"{inner}\tOFFSET {_three(ends[node.name])}", f"{inner}}}"]
    lines.append(f"{indent}}}")


def _three(offset: tuple[float, float, float]) -> str:
    return " ".join(f"{value + 0.0:.6f}" for value in offset)


def parse_bvh(path: Path) -> Motion:
    """Read a file with one skeleton. Raises PoseFileError, which names the line."""
    lines = lines_of(path)
    nodes, at = _hierarchy(lines, path)
    count = _value(lines, at, "Frames:", path)
    frames = whole(count, f"{path}, line {at + 1}")
    frame_time = float(numbers_in([_value(lines, at + 1, "Frame Time:", path)], f"{path}, line {at + 2}")[0])
    wanted = sum(len(node.channels) for node in nodes)
    rows = []
    for i, line in enumerate(lines[at + 2 :], at + 3):
        if line.strip():
            row = numbers_in(line.split(), f"{path}, line {i}")
            if len(row) != wanted or np.isnan(row).any():
                raise PoseFileError(f"{path}, line {i}: expected {wanted} numbers, one for each channel, got {len(row)}")
            rows.append(row)
    if len(rows) != frames or not rows:
        raise PoseFileError(f"{path} says that it has {frames} frames, and there are {len(rows)}; is it cut off?")
    if not frame_time > 0:
        raise PoseFileError(f"{path}, line {at + 2}: expected a positive frame time, got {frame_time}")
    return Motion(nodes, np.stack(rows), frame_time)


def _value(lines: list[str], at: int, name: str, path: Path) -> str:
    if at >= len(lines) or not lines[at].strip().startswith(name):
        raise PoseFileError(f"{path}, line {at + 1}: expected {name!r}")
    return lines[at].strip()[len(name) :].strip()


def _hierarchy(lines: list[str], path: Path) -> tuple[tuple[Node, ...], int]:
    """Return the nodes, end sites without a name among them, and the line after MOTION."""
    if not lines or lines[0].strip() != "HIERARCHY":
        raise PoseFileError(f"{path} is not BVH: expected HIERARCHY in line 1")
    nodes: list[Node] = []
    open_nodes: list[int] = []  # no recursion: a file may be nested as deeply as it is long
    for i, line in enumerate(lines[1:], 2):
        words, where = line.split(), f"{path}, line {i}"
        if not words:
            continue
        match words[0]:
            case "ROOT" | "JOINT" | "End":
                if len(nodes) == MOST_NODES or (words[0] == "ROOT") != (not nodes) or (words[0] != "ROOT" and not open_nodes):
                    raise PoseFileError(f"{where}: {words[0]} is not expected here: one skeleton of up to {MOST_NODES} joints is read")
                name = "" if words[0] == "End" else " ".join(words[1:])
                if words[0] != "End" and (not name or name in [node.name for node in nodes]):
                    raise PoseFileError(f"{where}: expected a joint's name that no other has, got {name[:40]!r}")
                nodes.append(Node(name, open_nodes[-1] if open_nodes else -1, (0.0, 0.0, 0.0), ()))
            case "{" if nodes:
                open_nodes.append(len(nodes) - 1)
            case "}" if open_nodes:
                open_nodes.pop()
            case "OFFSET" if open_nodes and len(words) == 4:
                x, y, z = numbers_in(words[1:], where).tolist()
                node = nodes[open_nodes[-1]]
                nodes[open_nodes[-1]] = Node(node.name, node.parent, (x, y, z), node.channels)
            case "CHANNELS" if open_nodes:
                node = nodes[open_nodes[-1]]
                nodes[open_nodes[-1]] = Node(node.name, node.parent, node.offset, _channels(words, where))
            case "MOTION" if nodes and not open_nodes:
                return tuple(nodes), i
            case _:
                raise PoseFileError(f"{where}: expected a part of the hierarchy, got {line.strip()[:40]!r}")
    raise PoseFileError(f"{path} ends within its hierarchy; is it cut off?")


def _channels(words: list[str], where: str) -> tuple[str, ...]:
    names = tuple(words[2:])
    if len(words) < 2 or whole(words[1], where) != len(names) or len(set(names)) < len(names) or not set(names) <= {*POSITIONS, *ROTATIONS}:
        raise PoseFileError(f"{where}: expected the number of channels and so many of {', '.join((*POSITIONS, *ROTATIONS))}")
    return names
