"""Published claims: those from facts held here hold, and docs/papers.md says what is computed."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from scaling.auditing import audit_text

HERE = Path(__file__).parents[1]


@cache
def benchmark():
    """The benchmark's modules, imported as its own script imports them."""
    sys.path.insert(0, str(HERE / "benchmarks"))
    try:
        import paper_facts
        import papers
    finally:
        sys.path.remove(str(HERE / "benchmarks"))
    return papers, paper_facts


@cache
def recomputed():
    papers, facts = benchmark()
    return papers.results(facts.FACTS, Path())


def test_every_claim_from_facts_lies_within_its_limits():
    assert [
        f"{name}: {check.what}"
        for name, checks in recomputed().items()
        for check in checks
        if not check.holds
    ] == []


def test_the_page_says_what_is_computed_and_a_changed_number_shows(monkeypatch, tmp_path):
    papers, _ = benchmark()
    assert papers.drift(recomputed()) == []
    changed = dict(recomputed())
    first, *others = changed["marin"]
    changed["marin"] = [replace(first, value=first.value * 1.01), *others]
    assert papers.drift(changed) == ["facts"]
    page = papers.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(papers, "PAGE", tmp_path / "papers.md")
    (tmp_path / "papers.md").write_text(page, encoding="utf-8")
    papers.write(recomputed())  # without tables, their part stays as it stands
    assert (tmp_path / "papers.md").read_text(encoding="utf-8") == page


def test_the_page_has_every_claim_and_a_section_of_each():
    papers, _ = benchmark()
    page = papers.PAGE.read_text(encoding="utf-8")
    claims = (*papers.FACTS, *papers.TABLES)
    assert len(claims) >= 10
    for claim in claims:
        assert f"### {claim.title}\n" in page
        assert not claim.table or f"`{claim.table}`" in page
    assert "**fails** |" not in page


@pytest.mark.parametrize(("stated", "exact"), [("762M", "774,030,080"), ("1542M", "1,557,611,200")])
def test_an_audit_names_each_of_openais_first_counts(stated, exact):
    shape = {"762M": "36 | 1280", "1542M": "48 | 1600"}[stated]
    (found,) = (
        one
        for one in audit_text(f"| Parameters | Layers | d_model |\n|---|---|---|\n| {stated} | {shape} |\n")
        if one.check == "parameters"
    )
    assert (found.verdict.value, found.recomputed) == ("mismatch", exact)
    assert "first count" in found.explanation


def test_an_audit_sets_stated_flops_against_the_exact_count_where_the_shape_is_stated():
    (found,) = (
        one
        for one in audit_text(
            "| model | params | n_layer | n_embd | n_head | n_positions | vocab_size | tokens | compute |\n"
            "|---|---|---|---|---|---|---|---|---|\n"
            "| Cerebras-GPT 111M | 111M | 10 | 768 | 12 | 2048 | 50257 | 2.22e9 | 2.6e18 |\n"
        )
        if one.check == "compute"
    )
    assert found.verdict.value == "suspicious"
    assert "1.39x the exact count with head and attention, 1.876e+18" in found.explanation
