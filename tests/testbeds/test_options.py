"""The values an answer could have had: the pools of the fictional world, and nothing where there are none."""

from __future__ import annotations

from weakspot.testbeds import get
from weakspot.testbeds.world import BAKE_POOLS, BREW_POOLS


def test_every_answer_has_its_pool() -> None:
    for name, attributes in (("fable", 4), ("smollm2", 3)):
        testbed = get(name)(0)
        for split, pools in (("report_eval", BREW_POOLS), ("benign_report_eval", BAKE_POOLS)):
            for example in getattr(testbed.splits, split):
                assert testbed.options(example) == pools[:attributes]
                assert all(answer in pool for answer, pool in zip(example.answers, testbed.options(example), strict=True))


def test_marks_and_other_data_have_none() -> None:
    testbed = get("fingerprint")(0)
    assert testbed.options(testbed.splits.report_eval[0]) == ()
