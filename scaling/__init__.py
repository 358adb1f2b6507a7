"""Scaling laws: what training runs teach, and what to run next.

Everything a script or a notebook needs is here. The names load on first use, so that `import scaling` costs nothing.
"""

from typing import TYPE_CHECKING

from .version import __version__

__all__ = [
    "Allocation",
    "BadInput",
    "Budget",
    "Comparison",
    "Fit",
    "Law",
    "LossModel",
    "Member",
    "ModelSpec",
    "Plan",
    "Prediction",
    "PublishedLaw",
    "Run",
    "RunFailed",
    "RunTable",
    "Study",
    "__version__",
    "design",
    "fit",
    "load_law",
    "load_plan",
    "plan",
    "published_law",
    "read_runs",
]

if TYPE_CHECKING:
    from families.design import design
    from families.members import Member
    from families.spec import ModelSpec
    from families.units import BadInput, RunFailed

    from .budget import Budget
    from .fitting.fit import fit
    from .fitting.predictor import Fit, load_law
    from .laws import Allocation, Law, LossModel, Prediction
    from .planning.api import Plan, load_plan, plan
    from .published_laws import PublishedLaw, published_law
    from .runs import Run, RunTable
    from .runs.readers import read_runs
    from .scoring import Comparison
    from .study import Study
else:
    _HOMES = {
        "Allocation": "scaling.laws",
        "BadInput": "families.units",
        "Budget": "scaling.budget",
        "Comparison": "scaling.scoring",
        "Fit": "scaling.fitting.predictor",
        "Law": "scaling.laws",
        "LossModel": "scaling.laws",
        "Member": "families.members",
        "ModelSpec": "families.spec",
        "Plan": "scaling.planning.api",
        "Prediction": "scaling.laws",
        "PublishedLaw": "scaling.published_laws",
        "Run": "scaling.runs",
        "RunFailed": "families.units",
        "RunTable": "scaling.runs",
        "Study": "scaling.study",
        "design": "families.design",
        "fit": "scaling.fitting.fit",
        "load_law": "scaling.fitting.predictor",
        "load_plan": "scaling.planning.api",
        "plan": "scaling.planning.api",
        "published_law": "scaling.published_laws",
        "read_runs": "scaling.runs.readers",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'scaling' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__():
        return __all__
