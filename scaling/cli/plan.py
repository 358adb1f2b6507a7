"""scaling plan: a budget or a target as a plan."""

from pathlib import Path
from typing import Annotated, Any

import typer

from families.units import BadInput

from ..files import atomic_writes, refuse_overwrite_text
from ..paths import StudyPaths
from ..planning.match import sealed_text
from ..planning.planfile import PlanFile, check_replaceable, write_plan
from ..planning.query import PlanQuery, answer_query, fixed_options, isoflop_curves, offered, own_runs
from ..planning.seal import seal
from ..planning.stamp import stamp_files
from ..recipe import DEFAULT_RULE
from .output import JsonOption, YesOption, echo, log, print_json, readable_study
from .plan_text import lines

PLAN_EPILOG = "Example: scaling plan --budget 8xA100-hours --mfu 0.35"


def plan(
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="64 H100 for 2 weeks, 8xA100-hours, $5000 on H100, 1.4e18, 0.02 PF-days; several with commas.",
        ),
    ] = None,
    law: Annotated[
        str | None,
        typer.Option(
            "--law",
            help="kaplan, chinchilla, hoffmann or a law.json (default: the study's, else chinchilla).",
        ),
    ] = None,
    mfu: Annotated[
        str | None,
        typer.Option(
            "--mfu",
            help="Model FLOPs utilisation: 0.4, 40%, or estimate (default: measured, else 0.4 assumed).",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", help="gpt2-kaplan, gpt2, another family, all, or grid (30,000 shapes)."),
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Devices for a budget that names none, like 8xA100.")
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", help="USD per device-hour (default: the catalogue's).")
    ] = None,
    times: Annotated[
        str | None,
        typer.Option(
            "--times",
            help="Measured times by number of devices, like 1=66m40s,2=40m19s: parallel efficiency.",
        ),
    ] = None,
    target_loss: Annotated[
        float | None,
        typer.Option("--target-loss", help="Find the cheapest way to this loss, in nats per token."),
    ] = None,
    target_ppl: Annotated[
        float | None, typer.Option("--target-ppl", help="The same, as a perplexity.")
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(
            "--params", help="A size or several, like 125M or 1B,3B,8B; the plan finds their tokens."
        ),
    ] = None,
    tokens_available: Annotated[
        str | None,
        typer.Option(
            "--tokens-available", help="Distinct tokens available; training beyond them repeats data."
        ),
    ] = None,
    inference_tokens: Annotated[
        str | None,
        typer.Option("--inference-tokens", help="Tokens to serve; their cost is shown beside training's."),
    ] = None,
    budget_includes_serving: Annotated[
        bool, typer.Option("--budget-includes-serving", help="Count serving against the budget too.")
    ] = False,
    within: Annotated[
        str | None, typer.Option("--within", help="Indifference band: 0.01 nats, or 2% of the cost.")
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", help="Recipe: capped, width, card, kaplan, porian, deepseek, steplaw.")
    ] = DEFAULT_RULE,
    recipes: Annotated[bool, typer.Option("--recipes", help="Show the recipe of every rule.")] = False,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="n_embd per layer of designed shapes.")
    ] = None,
    head_size: Annotated[
        int | None, typer.Option("--head-size", help="n_embd per head of designed shapes.")
    ] = None,
    vocab: Annotated[
        str | None,
        typer.Option("--vocab", help="Vocabulary of designed shapes, or auto: the best by the law."),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option("--experts", help="Experts of a layer of a --family with them: 8, or 8,16,32, or auto."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context", help="Context length: of designed shapes, or shorter than published ones' own."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Predict past 1,000 times the fitted N, D or compute, and seal a law whose residuals bend.",
        ),
    ] = False,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", callback=readable_study, help="Use the study's law.json, write its plan.json."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the sealed plan to this file.")] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed",
            min=0,
            help="Seed of the run to score; of several, their mean is scored (default: the study's, else 0).",
        ),
    ] = None,
    stamp: Annotated[
        str | None,
        typer.Option("--stamp", help="Have the seal's time attested by this timestamp server (RFC 3161)."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="Root certificates (PEM) to trust besides the system's.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw isoFLOP curves and the band as FILE.png or FILE.svg.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the plan on one page, as FILE.html.")
    ] = None,
    explore: Annotated[
        Path | None,
        typer.Option(
            "--explore", help="Write a page with sliders for budget, MFU, tokens and serving, as FILE.html."
        ),
    ] = None,
    published_runs: Annotated[
        bool, typer.Option("--published-runs", help="Also draw published runs, which are of other text.")
    ] = False,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Turn a budget into a model, its tokens and its predicted loss. Writes nothing without --study or --out."""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise BadInput(f"plot is {str(plot)!r}; it must end in .png or .svg")
    for name, page in (("report", report), ("explore", explore)):
        if page is not None and page.suffix != ".html":
            raise BadInput(f"{name} is {str(page)!r}; it must end in .html")
    question = PlanQuery(
        budget=budget,
        law=law,
        mfu=mfu,
        family=family,
        on=on,
        target_loss=target_loss,
        target_ppl=target_ppl,
        params=params,
        tokens_available=tokens_available,
        inference_tokens=inference_tokens,
        within=within,
        rule=rule,
        ratio=ratio,
        head_size=head_size,
        vocab=vocab,
        experts=experts,
        context=context,
        force=force,
        study=study,
        times=times,
        price=price,
        budget_includes_serving=budget_includes_serving,
    )
    made, advice = answer_query(question)
    target = out or (study / "plan.json" if study is not None else None)
    if target is None and (stamp is not None or seed):
        raise BadInput(
            f"--{'stamp' if stamp is not None else 'seed'} is part of a seal; give --study or --out too"
        )
    if ca is not None and stamp is None:
        raise BadInput("--ca names the roots of a timestamp server; give --stamp too")
    if target is not None:
        seeds = seed or [0 if study is None else StudyPaths(study).seed()]
        made = seal(made, data_sha256=sealed_text(study, made) if study else "", seeds=seeds)
    drawn = {} if plot is None else {plot: _draw(made, question, plot, published_runs)}
    if report is not None:
        from plots.plan_page import plan_page

        drawn[report] = plan_page(made, isoflop_curves(question, made), own_runs(question.study), advice)
    if explore is not None:
        from plots.explorer import explorer

        drawn[explore] = explorer(made, *offered(question), options=fixed_options(question))
    for page in filter(None, (report, explore)):
        refuse_overwrite_text(page, str(drawn[page]).partition(" content=")[0], "such a page", replace=yes)
    if target is not None:
        check_replaceable(target, replace=yes)
        stamps: dict[Path, bytes | str] = {}
        if stamp is not None and made.seal is not None:
            stamps = stamp_files(target, made.seal.digest, stamp, ca)
        write_plan(made, target, replace=yes, beside={**drawn, **stamps})
    else:
        atomic_writes(drawn)
    for path in drawn:
        log(f"wrote {path}")
    if as_json:
        summary: dict[str, Any] = made.model_dump(mode="json", exclude={"budget"})
        if recipes:
            summary["recipes"] = {name: found.model_dump(mode="json") for name, found in advice.items()}
        print_json({**made.headline(), **summary, "path": None if target is None else str(target)})
        return
    for line in lines(made, advice if recipes else {}):
        echo(line)
    for line in made.notes:
        log(f"note: {line}")
    if target is not None:
        assert made.seal is not None
        named = f"seed{'s'[: len(made.seal.named) > 1]} {made.seal.named_text}"
        log(f"wrote {target}, sealed{' and stamped' if stamp is not None else ''}, for {named}")


def _draw(plan: PlanFile, question: PlanQuery, path: Path, published: bool) -> bytes | str:
    """The plan's picture, with the study's own runs and, where asked, published ones."""
    from plots.plan import planned
    from plots.style import png, svg

    figure = planned(
        plan, isoflop_curves(question, plan), own_runs(question.study), published=published
    ).figure
    return png(figure) if path.suffix == ".png" else svg(figure, "plan")
