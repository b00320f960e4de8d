"""JUnit XML of a gate: what Jenkins, GitLab and test reporters read. A failure is a FAIL, an error is NO EVIDENCE."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime

from weakspot.records import Result
from weakspot.report.gate import Rules, Ruling
from weakspot.text import one_line

TAGS = {"FAIL": "failure", "NO EVIDENCE": "error"}


def to_junit(result: Result, rules: Rules, rulings: Sequence[Ruling], when: datetime) -> str:
    """One suite with a case a safeguard, after the schema of Ant's JUnit task.

    What XML cannot hold (control characters, lone surrogates) is left out of every text.
    """
    outcomes = [ruling.outcome for ruling in rulings]
    suite = ET.Element(
        "testsuite",
        {
            "name": "weakspot gate",
            "package": "weakspot",
            "id": "0",
            "hostname": "localhost",  # the schema wants one, and a report names no machine
            "timestamp": when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "time": "0",
            "tests": str(len(rulings)),
            "failures": str(outcomes.count("FAIL")),
            "errors": str(outcomes.count("NO EVIDENCE")),
            "skipped": "0",
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in facts(result, rules).items():
        ET.SubElement(properties, "property", {"name": name, "value": one_line(str(value))})
    for ruling in rulings:
        case = ET.SubElement(suite, "testcase", {"name": ruling.subject, "classname": "weakspot.gate", "time": "0"})
        if tag := TAGS.get(ruling.outcome):
            ET.SubElement(case, tag, {"type": ruling.outcome, "message": ruling.reason}).text = ruling.reason
    lines = [f"{ruling.outcome} {ruling.subject}: {ruling.reason}" for ruling in rulings]
    ET.SubElement(suite, "system-out").text = "\n".join(lines)
    ET.SubElement(suite, "system-err")
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def facts(result: Result, rules: Rules) -> dict[str, object]:
    """What was judged by what, for the suite's properties."""
    return {
        "testbed": result.testbed,
        "threat_model": result.threat_model.digest,
        "audit_finished": result.provenance.finished,
        "max_harm": rules.max_harm,
        "min_utility": "" if rules.min_utility is None else rules.min_utility,
        "min_budget": "" if rules.min_budget is None else rules.min_budget,
        "min_trials": "" if rules.min_trials is None else rules.min_trials,
    }
