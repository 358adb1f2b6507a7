"""Pages of a plan: one to send, and one to explore whose numbers, computed in the browser, are the command line's."""

import json
from pathlib import Path

import pytest

import scaling as sc
from families.units import BadInput
from plots.explorer import data, explorer, frontier
from plots.plan_page import plan_page
from scaling.cli.app import build
from scaling.planning.evaluate import Objective, evaluate_candidates
from scaling.planning.query import PlanQuery, answer_query, fixed_options, isoflop_curves, offered

from .browser import Browser

STUDY = Path(__file__).resolve().parents[1] / "docs" / "studies" / "stdlib"
HOSTILE = "</script><script>alert(1)</script>&<b>"


def page_of(query):
    made, _ = answer_query(query)
    return explorer(made, *offered(query))


@pytest.mark.parametrize("law", ["chinchilla", str(STUDY / "law.json")])
def test_the_explorer_holds_the_law_and_no_name_can_leave_its_element(law, monkeypatch):
    query = PlanQuery(budget="1e15", law=law)
    made, _ = answer_query(query)
    model, shapes, ask = offered(query)
    held = data(made, model, shapes, ask)
    assert len(held["shapes"]) == len(shapes)
    assert sum(form["weight"] for form in held["law"]["forms"]) == pytest.approx(1)
    object.__setattr__(made.budget, "text", HOSTILE)
    page = explorer(made, model, shapes, ask)
    assert "<script>alert" not in page
    assert page.count("</script>") == 2


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (PlanQuery(budget="1e20", law="kaplan"), "leaves nothing to explore; use --law chinchilla"),
        (PlanQuery(target_loss=2.6), "give --budget in place of a target"),
    ],
)
def test_what_cannot_be_explored_says_why(query, said):
    with pytest.raises(BadInput, match=said):
        page_of(query)


def test_a_grid_is_thinned_to_what_can_be_the_best_of_some_budget():
    query = PlanQuery(budget="1e21", family="llama3")
    made, _ = answer_query(query)
    law, shapes, _ = offered(query)
    kept = frontier(law, shapes, made.budget.flops)
    assert len(kept) < len(shapes) / 5
    for flops, served, includes, unique in (
        (1e19, 0, False, None),
        (7e21, 2e11, True, None),
        (9e23, 1e13, True, None),
        (3e22, 0, False, 5e10),
    ):
        ask = Objective(
            flops=flops, inference_tokens=served, includes_serving=includes, tokens_available=unique
        )
        every, few = evaluate_candidates(ask, law, shapes), evaluate_candidates(ask, law, kept)
        assert few.shapes.member(few.best()).name == every.shapes.member(every.best()).name
        assert few.loss[few.best()] == every.loss[every.best()]


def test_the_page_says_its_plan_without_a_script_and_the_command_for_the_same_numbers():
    query = PlanQuery(budget="64 H100 for 2 weeks", family="llama3", context="4096")
    made, _ = answer_query(query)
    page = explorer(made, *offered(query), options=fixed_options(query))
    static, live = page.split('<div id="live" hidden>')
    assert "The sliders need JavaScript" in static
    assert f"Train {made.recommended.member}" in static
    assert "About as good" in static
    assert '"options":"--family llama3 --context 4096"' in live
    assert "Of 17,186 candidates the page holds the" in live


def test_the_page_of_a_plan_has_its_costs_its_doubts_and_what_to_launch():
    query = PlanQuery(budget="64 H100 for 2 weeks", mfu="estimate", inference_tokens="1T", params="3B,8B")
    made, advice = answer_query(query)
    page = plan_page(made, isoflop_curves(query, made), (), advice)
    for words in (
        "2.99 USD per device-hour (Lambda, 8x, list price of 2025)",
        "The budget pays for training; serving is apart",
        "published runs on H100s reached",
        "MFU 25%",
        "FSDP (ZeRO 3) over 64",
        made.members[0].member,
        made.members[1].member,
    ):
        assert words in page, words


def test_the_command_writes_both_whole_and_over_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["plan", "--budget", "8xA100-hours", "--report", "plan.html", "--explore", "out.html"]
    build()(words, standalone_mode=False)
    assert "wrote out.html" in capsys.readouterr().err
    build()(words, standalone_mode=False)
    Path("plan.html").write_text("years of work")
    with pytest.raises(BadInput, match=r"plan.html exists and is not such a page"):
        build()(words, standalone_mode=False)
    assert Path("plan.html").read_text() == "years of work"
    with pytest.raises(BadInput, match=r"must end in .html"):
        build()(["plan", "--budget", "1e18", "--report", "plan.pdf"], standalone_mode=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


SET = """for (const [id, value] of Object.entries(arguments[0])) {
  const at = document.getElementById(id);
  if (typeof value === 'boolean') { at.checked = value; at.dispatchEvent(new Event('change')); }
  else { at.value = value; at.dispatchEvent(new Event('input')); }
}
return {...document.documentElement.dataset, problem: document.getElementById('problem').textContent};"""


def agree(shown, plan):
    chosen = plan.recommended
    assert shown["problem"] == ""
    assert shown["member"] == chosen.member
    assert float(shown["tokens"]) == pytest.approx(chosen.tokens, rel=1e-9)
    assert f"{float(shown['loss']):.4f}" == f"{chosen.loss:.4f}"
    assert float(shown["flops"]) == pytest.approx(chosen.flops, rel=1e-9)
    assert float(shown["serving"]) == pytest.approx(chosen.inference_flops, rel=1e-9)
    if chosen.hours is not None:
        assert float(shown["hours"]) == pytest.approx(chosen.hours, rel=1e-9)
        assert float(shown["usd"]) == pytest.approx(chosen.price, rel=1e-9)


@pytest.mark.slow
def test_the_explorer_computes_what_the_command_line_prints(browser, tmp_path):
    page = tmp_path / "time.html"
    page.write_text(page_of(PlanQuery(budget="64 H100 for 2 weeks")))
    browser.open(page.as_uri())
    for hours, mfu, unique, served, includes in (
        ("336", "0.4", "all", "0", False),
        ("24", "0.35", "all", "100B", False),
        ("24", "0.35", "all", "100B", True),
        ("2000", "45%", "30B", "0", False),
        ("7.5", "0.25", "2e9", "1T", False),
    ):
        given = {"hours": hours, "mfu": mfu, "unique": unique, "served": served, "includes": includes}
        plan = sc.plan(
            f"{hours}h on 64xH100",
            law="chinchilla",
            mfu=mfu,
            tokens_available=None if unique == "all" else unique,
            inference_tokens=None if served == "0" else served,
            budget_includes_serving=includes,
            force=True,
        )
        agree(browser.run(SET, given), plan)
    fixed = tmp_path / "flops.html"
    fixed.write_text(page_of(PlanQuery(budget="1e21", on="64xH100")))
    browser.open(fixed.as_uri())
    for flops, mfu in (("1e21", "0.4"), ("3e22", "0.25")):
        agree(
            browser.run(SET, {"flops": flops, "mfu": mfu}),
            sc.plan(flops, law="chinchilla", on="64xH100", mfu=mfu, force=True),
        )
    grid = tmp_path / "grid.html"
    grid.write_text(page_of(PlanQuery(budget="1e21", family="llama3")))
    browser.open(grid.as_uri())
    for flops, unique in (("1e21", "all"), ("4.4e22", "all"), ("2e23", "100B"), ("3e18", "all")):
        limit = None if unique == "all" else unique
        agree(
            browser.run(SET, {"flops": flops, "unique": unique}),
            sc.plan(flops, law="chinchilla", family="llama3", tokens_available=limit, force=True),
        )
    assert browser.errors() == []
    assert set(browser.requests()) <= {grid.as_uri(), "data:,"}


@pytest.mark.slow
def test_the_explorer_agrees_for_published_sizes_windows_and_experts(browser, tmp_path):
    for family, experts in (("pythia", None), ("gemma3", None), ("qwen3-moe", "8")):
        kind = tmp_path / f"{family}.html"
        kind.write_text(page_of(PlanQuery(budget="1e21", family=family, experts=experts)))
        browser.open(kind.as_uri())
        agree(
            browser.run(SET, {"flops": "3e20", "unique": "5B", "served": "100B", "includes": True}),
            sc.plan(
                "3e20",
                family=family,
                experts=experts,
                tokens_available="5B",
                inference_tokens="100B",
                budget_includes_serving=True,
                force=True,
            ),
        )


@pytest.mark.slow
def test_the_explorer_of_a_fitted_law_has_its_local_correction_and_refuses_words(browser, tmp_path):
    page, law = tmp_path / "fit.html", str(STUDY / "law.json")
    page.write_text(page_of(PlanQuery(budget="1e15", law=law, study=STUDY)))
    browser.open(page.as_uri(), width=390)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    for flops, unique in (("1e15", "all"), ("3e14", "all"), ("2e15", "5M"), ("1e16", "20M")):
        plan = sc.plan(
            flops, law=law, study=STUDY, tokens_available=None if unique == "all" else unique, force=True
        )
        agree(browser.run(SET, {"flops": flops, "unique": unique}), plan)
    assert "is no number here" in browser.run(SET, {"flops": "much"})["problem"]
    assert "Nothing is affordable" in browser.run(SET, {"flops": "1e3"})["problem"]
    assert json.loads(browser.run("return document.getElementById('data').textContent"))["law"]["local"]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_both_pages_fit_a_desk_and_a_telephone(browser, tmp_path, width, dark):
    query = PlanQuery(budget="64 H100 for 2 weeks", inference_tokens="1T")
    made, advice = answer_query(query)
    for text in (page_of(query), plan_page(made, isoflop_curves(query, made), (), advice)):
        page = tmp_path / "page.html"
        page.write_text(text)
        browser.open(page.as_uri(), width=width, dark=dark)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.errors() == []
