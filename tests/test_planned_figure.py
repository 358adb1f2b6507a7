"""The picture of a plan shows the plan."""

import pytest

from plots.plan import LOSS_MARGIN, planned, published_near
from plots.style import get_title, svg
from scaling.planning.query import PlanQuery, answer_query, isoflop_curves


@pytest.mark.parametrize("law", ["chinchilla", "kaplan"])
def test_the_title_names_the_recommended_and_the_picture_is_the_same_each_time(law):
    question = PlanQuery(budget="1e19", law=law)
    plan, _ = answer_query(question)
    figure = planned(plan, isoflop_curves(question, plan)).figure
    assert plan.recommended.member in get_title(figure)
    again = planned(plan, isoflop_curves(question, plan)).figure
    assert svg(figure, "plan") == svg(again, "plan")


def test_the_main_curve_is_lowest_at_the_recommended():
    question = PlanQuery(budget="1e19", law="chinchilla")
    plan, _ = answer_query(question)
    curves = isoflop_curves(question, plan)
    assert [curve.flops / plan.recommended.flops for curve in curves] == pytest.approx([1 / 3, 1, 3])
    main = curves[1]
    assert main.params[main.loss.argmin()] == plan.recommended.params
    assert main.loss.min() == pytest.approx(plan.recommended.loss)
    assert curves[0].loss.min() > main.loss.min() > curves[2].loss.min()


def test_a_target_that_is_served_lies_on_its_own_curve():
    question = PlanQuery(target_loss=2.6, inference_tokens="1T")
    plan, _ = answer_query(question)
    main = isoflop_curves(question, plan)[1]
    at = main.params == plan.recommended.params
    assert main.loss[at] == pytest.approx(2.6, abs=1e-6)
    assert main.loss.min() == pytest.approx(2.6, abs=0.002)


def test_several_budgets_have_a_curve_each_through_their_members():
    question = PlanQuery(budget="1e18,1e19,1e20")
    plan, _ = answer_query(question)
    for rung, curve in zip(plan.ladder, isoflop_curves(question, plan), strict=True):
        assert curve.params[curve.loss.argmin()] == rung.choice.params
        assert curve.loss.min() == pytest.approx(rung.choice.loss)


def test_what_no_law_wants_is_ringed_and_other_laws_differ_in_their_dashes():
    question = PlanQuery(budget="8xA100-hours")
    plan, _ = answer_query(question)
    drawn = svg(planned(plan, isoflop_curves(question, plan)).figure, "plan")
    assert "gpt2-52m: Pareto-optimal, preferred by no law" in drawn
    assert "gpt2-125m: Pareto-optimal" not in drawn


def test_a_law_of_one_dial_has_no_isoflop_curve():
    question = PlanQuery(budget="1e19", law="kaplan")
    assert isoflop_curves(question, answer_query(question)[0]) == ()


def test_published_runs_near_the_plan_are_drawn_hollow_where_asked_and_named_with_their_text():
    question = PlanQuery(budget="8xA100-hours", law="chinchilla")
    plan, _ = answer_query(question)
    curves = isoflop_curves(question, plan)
    assert "OpenWebText" not in svg(planned(plan, curves).figure, "plan")  # other text, another axis
    drawn = svg(planned(plan, curves, published=True).figure, "plan")
    for words in ("gpt2-83m: 3.28 nats per token of OpenWebText on 5.77B tokens", "gpt2-medium: 2.84"):
        assert words in drawn
    assert "composer-gpt2, OpenWebText" in drawn
    sizes, losses = (1e7, 1e9), (3.0, 3.3)
    shown = published_near(plan, sizes, losses)
    assert all(1e7 < run.params < 1e9 and run.loss < 3.3 + LOSS_MARGIN for one in shown for run in one.runs)
    assert published_near(plan, (1e3, 1e4), losses) == ()


def test_a_fit_of_another_vocabulary_shows_no_published_run():
    plan, _ = answer_query(PlanQuery(budget="1e19", law="chinchilla", vocab="8192"))
    own = plan.model_copy(update={"law": plan.law.model_copy(update={"name": "law.json"})})
    assert published_near(plan, (1e7, 1e9), (2.5, 3.5))
    assert not published_near(own, (1e7, 1e9), (2.5, 3.5))


def test_the_command_draws_it_and_refuses_another_ending(cli, tmp_path):
    done = cli("plan", "--budget", "1e18", "--plot", "plan.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")
    wrong = cli("plan", "--budget", "1e18", "--plot", "plan.gif", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "must end in .png or .svg" in wrong.stderr
