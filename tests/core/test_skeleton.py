"""The skeleton: a tree of 17 joints, its mirror image, and the matrices drawn from it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from diffpose_edge.skeleton import BONES, JOINTS, MIRROR, ROOT, J, adjacency, chebyshev_stack, laplacian


def _reached_from_root() -> set[int]:
    reached, frontier = {ROOT}, [ROOT]
    while frontier:
        joint = frontier.pop()
        for i, j in BONES:
            for here, there in ((i, j), (j, i)):
                if here == joint and there not in reached:
                    reached.add(there)
                    frontier.append(there)
    return reached


def test_there_are_17_joints_with_distinct_names_and_the_hip_is_the_root() -> None:
    assert J == len(JOINTS) == len(set(JOINTS)) == 17
    assert JOINTS[ROOT] == "hip"


def test_the_bones_form_a_tree_over_all_joints() -> None:
    # Connected with one edge fewer than nodes: that is a tree.
    assert len({frozenset(bone) for bone in BONES}) == len(BONES) == J - 1
    assert _reached_from_root() == set(range(J))


def test_the_mirror_is_an_involution() -> None:
    assert sorted(MIRROR) == list(range(J))
    assert all(MIRROR[MIRROR[j]] == j for j in range(J))


def test_the_mirror_swaps_left_and_right_names_and_keeps_the_others() -> None:
    swapped = {"left_": "right_", "right_": "left_"}
    for j, name in enumerate(JOINTS):
        side = next((s for s in swapped if name.startswith(s)), None)
        expected = name if side is None else swapped[side] + name.removeprefix(side)
        assert JOINTS[MIRROR[j]] == expected


def test_the_mirror_maps_bones_onto_bones() -> None:
    bones = {frozenset(bone) for bone in BONES}
    assert {frozenset((MIRROR[i], MIRROR[j])) for i, j in BONES} == bones


def test_the_adjacency_equals_the_authors_bit_for_bit(golden: SimpleNamespace) -> None:
    np.testing.assert_array_equal(adjacency().astype(np.float32), golden.expected["adj"])


def test_the_adjacency_has_rows_of_sum_one_over_each_joint_and_its_neighbours() -> None:
    a = adjacency()
    assert np.abs(a.sum(axis=1) - 1.0).max() <= np.finfo(np.float64).eps
    linked = {frozenset(bone) for bone in BONES} | {frozenset((j,)) for j in range(J)}
    assert {frozenset((int(i), int(j))) for i, j in np.argwhere(a > 0)} == linked


def test_the_adjacency_is_the_same_after_mirroring() -> None:
    a = adjacency()
    np.testing.assert_array_equal(a[np.ix_(MIRROR, MIRROR)], a)


def test_the_laplacian_has_rows_of_sum_zero() -> None:
    # Row sums of A are one up to rounding, and so is what the Laplacian makes of them.
    assert np.abs(laplacian(adjacency()).sum(axis=1)).max() <= J * np.finfo(np.float64).eps


def test_the_laplacian_is_the_textbook_formula_for_any_weights() -> None:
    weights = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 1.0], [0.0, 1.0, 3.0]])
    d = np.diag(weights.sum(axis=1) ** -0.5)
    np.testing.assert_array_equal(laplacian(weights), np.eye(3) - d @ weights @ d)


def test_the_chebyshev_stack_follows_the_recurrence() -> None:
    lap = laplacian(adjacency())
    stack = chebyshev_stack()
    assert stack.shape == (3, J, J)
    np.testing.assert_array_equal(stack[0], np.eye(J))
    np.testing.assert_array_equal(stack[1], lap)
    # T_k = 2 L T_{k-1} - T_{k-2}; the two ways to multiply differ by rounding alone.
    recurrence = 2.0 * (lap @ stack[1]) - stack[0]
    assert np.abs(stack[2] - recurrence).max() <= J * np.finfo(np.float64).eps
