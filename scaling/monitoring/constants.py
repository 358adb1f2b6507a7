"""Constants of the live forecast and its alarms, one table: value, meaning, and the data on which it was chosen.

Studies are those of benchmarks/forecast.py (code-a to docs-x are its 24 development studies); the choices are in
docs/log.md. Shares are of the loss unless another unit is named; a pair is (mean, standard deviation). Vectors of seven
hold level, slope, gain, shift, drift (shares of the loss), alpha and log memory.
"""

import math

import numpy as np

# Learning curve (trajectory). Compared on wsd and cosine runs: the plain area (power 1) put cosine runs below and wsd
# runs above the law that fitted both.
PROGRESS_POWER = 0.7  # of the learning rate in x = Σ η^power

# Observations (curves). Chosen on code-a, docs-b, code-c, code-d.
MIN_POINTS = 4  # observations, below which there is no forecast
MAX_LINES = 200  # of training loss; longer logs are averaged, for speed
EVAL_NOISE = 0.006  # wander of a partial evaluation at constant learning rate
NOISE_INFLATION = (
    2.0  # standard deviations are multiplied by it: errors of neighbouring observations are correlated
)
RESIDUAL_UNCERTAINTY = 0.3  # share of a sibling's residual that may be its own rather than the batches'
SAME_BATCH = 0.25  # |ln ratio| of tokens per step up to which two runs are siblings
MOST_SIBLINGS = (
    32  # more than any study had on which these constants were chosen; the cost grows with their cube
)

# Prior of a run without siblings (siblings). Chosen on code-a, docs-b, code-c, code-d; relative to the current loss, so
# that it carries over to other model sizes.
PRIOR_SLOPE = (0.075, 0.025)  # fall of the loss per e-fold of x
PRIOR_GAIN = (0.07, 0.03)  # fall of the loss by annealing
PRIOR_SHIFT = (0.0, 0.15)  # training loss less held-out loss
PRIOR_DRIFT = (0.0, 0.015)  # change of the shift per e-fold of x
PRIOR_ALPHA = (0.5, 0.15)  # exponent
PRIOR_LOG_MEMORY = (math.log(12.0), 0.8)  # ln of steps at the peak rate

# Differences between runs of one study (siblings). Chosen on code-a, docs-b, code-c, code-d.
SIZE_TREND = np.array([-0.03, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0])  # per e-fold of parameters
SIZE_TREND_SD = np.array([0.02, 0.005, 0.004, 0.01, 0.01, 0.06, 0.2])
SIZE_WANDER = np.array(
    [0.006, 0.003, 0.0016, 0.006, 0.004, 0.1, 0.2]
)  # Brownian sd per √(e-fold of parameters)
RUN_SCATTER = np.array([0.008, 0.003, 0.0025, 0.01, 0.006, 0.08, 0.25])  # sd of single runs
OTHER_SCHEDULE_SD = np.array([0.015, 0.006, 0.02, 0.004, 0.004, 0.1, 0.5])  # added sd under another schedule
SAME_LENGTH = 0.1  # |ln ratio| of two rungs' lengths up to which they count as equally long
INITIAL_BEND = 0.1  # share of a run's steps that the fit leaves out: the initial bend is no power law
MAX_BEND = 0.5  # largest share of the steps so far that is left out for the bend
BEND_ALONE = 0.5  # share of the steps so far that is left out where no sibling shows the bend

# Forecast from siblings' final losses (siblings). Maximum likelihood of the forecasts at a third of all 147 full-length
# runs with siblings of two sizes in code-a to docs-x. The pairs are per share of x still to come.
GAP_DECAY = (0.81, 0.37)  # share of the gap to a sibling that is lost by the end
SIZE_EFFECT = (0.058, 0.01)  # effect on ln L of a unit of K(N)
SIBLING_WANDER = 0.0055  # sd of ln L along K
SIBLING_SCATTER = 0.0017  # sd of ln L of single runs
REMAINING_SCATTER = 0.004  # sd of ln L per √(share of x still to come)
TOKENS_PER_PARAMETER = 2.0  # r in K(N) = ln(1 + D/(r·N))
GAP_WINDOW = 0.5  # the gap is measured on the steps after this share of those so far
MIN_GAP_LINES, MIN_GAP_EVALS = 4, 3  # observations on which a gap is measured
MIN_SIBLINGS_FOR_OUTLIER = 3  # siblings, from which on the most deviating one is down-weighted
DISAGREEMENT = 2.0  # standard deviations beyond which two forecasts disagree

# Forecast (forecast). Chosen on code-a to docs-x.
OFFSET_SLOPE = (0.1, 0.15)  # nats of offset per nat of loss, of the whole eval set from the curve's end
OFFSET_NOISE = 0.004  # sd of that offset
MODEL_ERROR = 0.004  # sd of the curve's law at its end
COMMON_ERROR = (
    0.006  # sd that curve and siblings have in common; makes the intervals cover simulated runs too
)
ERROR_CORRELATION = 0.5  # between the errors of the curve forecast and of the sibling forecast

# Alarms (alarms). Chosen on code-a to docs-f, except where a study is named.
RECENT_LINES = 3  # lines of training loss whose mean is judged
NOISE_SIGMAS = 4.0
BEHIND = 0.045  # above all siblings at equal tokens; a healthy larger run was at most 0.013 behind
AHEAD = 0.12  # below all siblings; a healthy larger run was up to 0.06 ahead while the loss fell steeply
AHEAD_STEEP = (
    0.2  # likewise, early and while the loss falls by LEARNING_FALL (code-t: three layers 0.12 ahead of two)
)
# For each e-fold of size beyond twice the largest sibling: a sealed target of 3.9 times it was 0.17 ahead on its first pass.
AHEAD_BY_SIZE = 0.15
JUMP, JUMP_ALONE = 0.035, 0.07  # least departure from the run's own earlier curve, with siblings and without
JUMP_SIGMAS = 5.0
TRAIN_EVAL_GAP = 0.12  # training loss below held-out loss, beyond what siblings show

# Not learning beside siblings that learn: behind, and falling slowly or with a small gradient norm. Healthy runs fell at
# least 0.74 times as fast, with 0.99 of the norm. Added after docs-b, whose text was learnt from only after 70 steps.
LAG, FALL_RATIO, NORM_RATIO = 0.01, 0.5, 0.75
LEARNING_SIBLING = 0.04  # fall of the sibling per e-fold of steps, above which the rule holds

# Not learning beside siblings that hardly learn yet. Added after docs-f, where no run had left the plateau at a tenth of
# the budget; confined to that phase after docs-m, whose four layers began later than three and fell 0.6 times as fast.
LAG_PLATEAU, NORM_RATIO_PLATEAU = 0.004, 0.6  # slightly behind, with a small gradient norm
LAG_FAR, FALL_RATIO_FAR = 0.017, 0.7  # or further behind, and falling more slowly
PLATEAU_SIBLING = 0.1  # fall of the sibling per e-fold of steps, below which the rule holds

# A run that falls by this share per e-fold of steps learns, however far behind. Added after code-k (three layers began 4 %
# behind two, fell by 0.106 and caught up); code-w on shuffled labels still fell by 0.086 at a tenth.
LEARNING_FALL = 0.09

# A plateau without siblings. Healthy runs fell by 0.022 or more by then (docs-p: 90 steps to begin with docstrings).
PLATEAU_FALL = 0.02  # per e-fold of steps, below which the loss does not fall
PLATEAU_LEVEL = 0.6  # of the first line's loss, above which it has not fallen yet
EARLY = (0.08, 0.2)  # shares of the steps between which plateaus are judged

MAX_CHECKS = 80  # positions of a run's past that are checked for alarms
