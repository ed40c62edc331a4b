"""What a manifest keeps of a verification: the worst of all graphs, and never a good number for a pose that is none."""

import numpy as np
import pytest

from diffpose_edge.comparison import compare_poses, compare_relative
from diffpose_edge.export.verification import FOR_THE_CPU, VerificationReport

TRUTH = np.random.default_rng(0).normal(size=(4, 17, 3)).astype(np.float32)


def report_of(portable: np.ndarray, for_cpu: np.ndarray) -> VerificationReport:
    sections = {}
    for which, joints in (("", portable), (FOR_THE_CPU, for_cpu)):
        sections[f"step graph{which}"] = (compare_relative(f"layer{which}", joints, TRUTH, 1e-5),)
        sections[f"pose{which}"] = (compare_poses("joints", joints, TRUTH, 0.01),)
    return VerificationReport(sections, (), 4, (12, 0), True)


def test_the_worst_of_both_kinds_of_graphs_is_kept():
    near, far = TRUTH + np.float32(1e-6), TRUTH + np.float32(1e-3)
    for report in (report_of(near, far), report_of(far, near)):
        record = report.as_record()["fp32"]
        assert record["passed"] is False
        assert record["worst_mm"] == pytest.approx(np.sqrt(3), rel=1e-3)
    assert report_of(near, far).as_record()["fp32"]["at_layer"] == f"layer{FOR_THE_CPU}"


def test_what_is_not_a_number_is_the_worst_wherever_it_stands():
    broken = TRUTH.copy()
    broken[1, 2, 0] = np.nan
    for report in (report_of(TRUTH, broken), report_of(broken, TRUTH)):
        record = report.as_record()["fp32"]
        assert (record["passed"], record["worst_mm"], record["largest_layer_error"]) == (False, None, None)
