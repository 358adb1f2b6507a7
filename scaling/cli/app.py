"""The verbs, in the order of the flow."""

import typer

from . import (
    audit,
    backtest,
    compare,
    demo,
    design,
    doctor,
    families_verb,
    fit,
    hardware,
    ladder,
    next_verb,
    pilot,
    plan,
    plot,
    predict,
    report,
    show,
    simulate,
    train_verb,
)

_HELP = """Plan, train and check language models with scaling laws.

The flow: design -> train -> fit -> plan -> seal -> train -> compare -> report. `scaling demo` walks it in five minutes.
"""


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="scaling",
        help=_HELP,
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(show.root)
    app.add_typer(families_verb.app, name="families")
    app.command("design", epilog=design.EPILOG)(design.design_members)
    app.command("pilot", epilog=pilot.EPILOG)(pilot.pilot)
    app.command("next", epilog=next_verb.EPILOG)(next_verb.next_run)
    app.command("simulate", epilog=simulate.EPILOG)(simulate.simulate_plan)
    app.command("plan", epilog=plan.EPILOG)(plan.plan)
    app.command("hardware", epilog=hardware.EPILOG)(hardware.hardware)
    app.command("fit", epilog=fit.EPILOG)(fit.fit)
    app.command("predict", epilog=predict.EPILOG)(predict.predict)
    app.command("backtest", epilog=backtest.EPILOG)(backtest.backtest)
    app.command("audit", epilog=audit.EPILOG)(audit.audit)
    app.command("train", epilog=train_verb.EPILOG)(train_verb.train)
    app.command("ladder", epilog=ladder.EPILOG)(ladder.ladder)
    app.command("compare", epilog=compare.EPILOG)(compare.compare_study)
    app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
    app.command("report", epilog=report.EPILOG)(report.report)
    app.command("plot", epilog=plot.EPILOG)(plot.plot)
    app.command("demo", epilog=demo.EPILOG)(demo.demo)
    return app


def usage_error(error: Exception) -> str | None:
    """The message of a usage error (unknown option, missing argument), or None if it is something else."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    message = str(format_message())
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return message.rstrip(".") + hint
