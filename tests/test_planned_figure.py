"""The picture of a plan shows the plan."""

import pytest

from plots.planned import planned
from plots.style import conclusion, svg
from scaling.asking import Question, ask, isoflops


@pytest.mark.parametrize("law", ["chinchilla", "kaplan"])
def test_the_title_names_the_recommended_and_the_picture_is_the_same_each_time(law):
    question = Question(budget="1e19", law=law)
    plan, _ = ask(question)
    figure = planned(plan, isoflops(question, plan))
    assert plan.recommended.member in conclusion(figure)
    again = planned(plan, isoflops(question, plan))
    assert svg(figure, "plan") == svg(again, "plan")


def test_the_main_curve_is_lowest_at_the_recommended():
    question = Question(budget="1e19", law="chinchilla")
    plan, _ = ask(question)
    curves = isoflops(question, plan)
    assert [curve.flops / plan.recommended.flops for curve in curves] == pytest.approx([1 / 3, 1, 3])
    main = curves[1]
    assert main.params[main.loss.argmin()] == plan.recommended.params
    assert main.loss.min() == pytest.approx(plan.recommended.loss)
    assert curves[0].loss.min() > main.loss.min() > curves[2].loss.min()


def test_a_law_of_one_dial_has_no_isoflop_curve():
    question = Question(budget="1e19", law="kaplan")
    assert isoflops(question, ask(question)[0]) == ()


def test_the_command_draws_it_and_refuses_another_ending(cli, tmp_path):
    done = cli("plan", "--budget", "1e18", "--plot", "plan.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")
    wrong = cli("plan", "--budget", "1e18", "--plot", "plan.gif", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "must end in .png or .svg" in wrong.stderr
