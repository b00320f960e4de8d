"""LaTeX: balanced, as many cells as columns, nothing a command; compiled where there is a compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.builders import HOSTILE, make_finding, make_result, make_subject
from weakspot.records import Result
from weakspot.report.latex import best_attacks, escape, render, to_latex
from weakspot.report.tables import Column, Table

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))
EVIL = r"\input{/etc/passwd} \write18{ls} 100% #1 a_b ^^M ~ $x$ & {unbalanced [x] *y --- ,, '' ?` \\ 中文 é — “q” " + HOSTILE
COMMANDS = {
    "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "char", "textasciigrave",
    "ldots", "times", "le", "ge", "pm", "to", "texttt",
}  # fmt: skip


def hostile() -> Result:
    subject = make_subject(
        EVIL,
        reason=EVIL,
        weak_spot=make_finding(attack=EVIL, note=EVIL),
        cheapest_break=make_finding(0.9, attack="[x]", steps=1),
    )
    return make_result([subject, make_subject("*b", "HELD", EVIL), make_subject("[c]", "INCONCLUSIVE", EVIL)], testbed=EVIL)


def unescaped(text: str, letter: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(letter)}", text))


@given(ANYTHING)
def test_escaped_text_has_no_markup(text: str) -> None:
    shown = escape(text)
    assert set(re.findall(r"\\([a-zA-Z]+)", shown)) <= COMMANDS
    assert set(re.findall(r"\\([^a-zA-Z])", shown)) <= set("{}$&#_%()")
    for letter in '%$&#_~^<>|"`':
        assert unescaped(shown, letter) == 0
    assert unescaped(shown, "{") == unescaped(shown, "}")
    assert not re.match(r"[\[*]", shown), "after a row's end it would be an option"
    assert not re.search(r"--|,,|''", escape(re.sub("[–—]", "", text))), "a ligature would change what is read"
    assert shown.isascii() or re.fullmatch(r"[\x00-\x7fÀ-ſ]*", shown)
    assert "\n" not in shown


@pytest.mark.parametrize("result", [make_result(), make_result([]), hostile()], ids=["all verdicts", "empty", "hostile"])
def test_environments_balance_and_rows_have_their_cells(result: Result) -> None:
    text = to_latex(result)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z]+)\}", re.sub(r"^%.*$", "", text, flags=re.MULTILINE)):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    for kinds, body in re.findall(r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        columns = len(re.sub(r"p\{[^}]*\\linewidth\}", "p", kinds))
        assert {"\\toprule", "\\midrule", "\\bottomrule"} <= set(body.split())
        for line in body.splitlines():
            if line.endswith(r" \\"):
                spans = [int(width) for width in re.findall(r"\\multicolumn\{(\d)\}", line)]
                assert unescaped(line, "&") + 1 + sum(spans) - len(spans) == columns
            else:
                assert re.fullmatch(r"\\(toprule|midrule|bottomrule)|(\\cmidrule\(lr\)\{\d+-\d+\} ?)+", line)


def test_the_numbers_are_those_of_the_report() -> None:
    text = to_latex(make_result())
    assert r"tar & BROKEN & 0.02 & 0.13 & 0.78 {[}0.70, 0.85{]} & 0.96 & 64 & 16 & 32 GFLOP \\" in text
    assert r"refusal & HELD & 0.02 & 0.13 & 0.22 {[}0.14, 0.29{]} & 0.96 & - & - & - \\" in text
    assert r"learning\_rate=0.011, rank=4" in text
    assert r"random\_answer & INCONCLUSIVE & - & - & - & - & - & - & - \\" in text


def test_the_best_attacks_are_the_strongest_and_the_cheapest_break() -> None:
    several = [make_finding(harm, attack=name) for harm, name in ((0.9, "a"), (0.8, "b"), (0.7, "c"), (0.6, "d"))]
    subject = make_subject(weak_spot=several[0], cheapest_break=several[3], confirmed=several)
    assert [f.attack for f in best_attacks(subject)] == ["a", "b", "c", "d"]
    subject = make_subject(weak_spot=several[0], cheapest_break=several[1], confirmed=several)
    assert [f.attack for f in best_attacks(subject)] == ["a", "b", "c"]


def test_a_group_of_columns_stands_over_them() -> None:
    table = Table("x", (Column("a"), Column("b", "both"), Column("c", "both")), (("1", "2", "3"),))
    assert " & \\multicolumn{2}{c}{both} \\\\\n\\cmidrule(lr){2-3}\na & b & c \\\\" in render(table, "tab:x")


@pytest.mark.skipif(not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="neither pdflatex nor tectonic is here")
def test_it_compiles(tmp_path: Path) -> None:
    body = to_latex(hostile()) + to_latex(make_result()).replace("tab:", "tab:second-")
    document = (
        rf"\documentclass{{article}}\usepackage[T1]{{fontenc}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    )
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"] if shutil.which("pdflatex") else ["tectonic"]
    done = subprocess.run([*command, "paper.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 1000
