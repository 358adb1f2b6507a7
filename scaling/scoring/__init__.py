"""Predicted against actual: score the predictions of sealed plans by the runs that came after, in one study or in many."""

from .calibration import Calibration, calibrate, comparisons_under
from .comparison import (
    Comparison,
    ComparisonRow,
    NotPrediction,
    compare,
    compare_study,
    compared,
    outcome,
    score,
)

__all__ = [
    "Calibration",
    "Comparison",
    "ComparisonRow",
    "NotPrediction",
    "calibrate",
    "compare",
    "compare_study",
    "compared",
    "comparisons_under",
    "outcome",
    "score",
]
