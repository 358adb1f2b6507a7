"""Words of headers and cells beside those of `columns`: aliases of fields, states of runs, flags, columns of exports."""

import re

from .columns import BY_HEADER

ALIASES = {  # letters and digits in lower case; where several columns match, the later alias counts
    "run": ("experiment", "id", "name", "modelname", "model", "runname", "runid"),
    "params": (
        "parameterzahl",
        "anzahlparameter",
        "paramètres",
        "parametres",
        "parámetros",
        "parametros",
        "параметры",
        "参数",
        "参数量",
        "参数数量",
        "size",
        "modelsize",
        "nparams",
        "numparams",
        "parameters",
        "n",
    ),
    "tokens": (
        "sftdatasize",
        "numcharacters",
        "token",
        "jetons",
        "токены",
        "词元",
        "训练词元",
        "词元数",
        "训练词元数",
        "datasize",
        "ntokens",
        "numtokens",
        "tokensseen",
        "traintokens",
        "trainingtokens",
        "d",
    ),
    "loss": (
        "unigramnormalizedloss",
        "verlust",
        "validierungsverlust",
        "perte",
        "pertedevalidation",
        "pérdida",
        "perdita",
        "perda",
        "потери",
        "损失",
        "验证损失",
        "sftloss",
        "lossvalidation",
        "lmloss",
        "trainloss",
        "testloss",
        "evalloss",
        "validationloss",
        "valloss",
        "finalloss",
        "l",
    ),
}

STATES = (
    "state",
    "status",
    "runstate",
    "runstatus",
    "jobstate",
    "jobstatus",
    "trainingjobstatus",
    "trialstatus",
    "trialstate",
    "taskstatus",
    "sysstate",
)

HELPER_NAMES = {
    "steps": (
        *(name for name, meaning in BY_HEADER.items() if meaning == "steps"),
        "globalstep",
        "iter",
        "iters",
        "currentsteps",
    ),
    "max_steps": (
        "maxsteps", "totalsteps", "numtrainsteps", "numtrainingsteps", "maxiters", "totaliterations", "maxtrainsteps",
        "trainiters",
    ),
    "samples": (
        "consumedsamples", "samplesseen", "consumedsequences", "sequencesseen", "sequences", "numsequences", "nsequences",
    ),
    "micro_batch": (
        "perdevicetrainbatchsize", "perdevicebatchsize", "perdevicebatch", "microbatchsize", "microbatch", "batchsizeperdevice",
        "batchsizepergpu", "pergpubatchsize", "localbatchsize", "devicebatchsize",
    ),
    "devices": tuple(name for name, meaning in BY_HEADER.items() if meaning == "devices"),
    "tokens_per_param": (
        "tokensperparam", "tokensperparameter", "tokensparam", "tokensparams", "tokenparamratio", "tokensparamratio", "dn",
        "tokenstoparams", "dnratio", "tpp",
    ),
    "epochs": ("epochs", "nepochs", "numepochs", "numtrainepochs"),
    "batch": tuple(name for name, meaning in BY_HEADER.items() if meaning == "batch"),
    "grad_accumulation": ("gradientaccumulationsteps", "gradaccumsteps", "gradientaccumulation"),
    "total_flos": ("totalflos",),
}  # fmt: skip

WHOLE_BATCH = (
    "global",
    "total",
    "effective",
)  # a batch called so holds what gradient accumulation and devices add

# Columns of truth values that say whether a run may count: by the state that True says, or that False says.
FLAGS = {
    name: (name, True)
    for name in ("crashed", "failed", "diverged", "killed", "preempted", "aborted", "oom", "running", "excluded", "exclude")
}  # fmt: skip
FLAGS |= {f"is{name}": flag for name, flag in FLAGS.items()} | {
    "hasfailed": ("failed", True),
    "hascrashed": ("crashed", True),
}
FLAGS |= {
    f"{prefix}{name}": (f"not {name}", False)
    for name in ("finished", "completed", "complete", "done", "success", "successful", "succeeded")
    for prefix in ("", "is")
}
EXIT_CODES = ("exitcode", "returncode", "exitstatus")

EXPORTS = (  # columns that only a tracker's table of runs has
    frozenset(("Name", "State")),
    frozenset(("run_id", "experiment_id", "status")),
    frozenset(("Run ID", "Start Time", "Status")),
    frozenset(("Start Time", "Duration", "Name")),
    frozenset(("sys/id",)),  # Neptune
    frozenset(("Name", "Experiment Key")),  # Comet
    frozenset(("Experiment", "rev", "typ")),  # DVC
    frozenset(("TYPE", "NAME", "STATUS")),  # ClearML
    frozenset(("trial_id", "status")),  # Ray Tune
    frozenset(("TrainingJobName", "TrainingJobStatus")),  # SageMaker
    frozenset(("_step", "_runtime")),
    frozenset(("_step", "_timestamp")),
)

PLAINLY_MEANT = (
    "n_experts",
    "lr",
    "annealed",
)  # optional fields whose headers name nothing else, like num_experts

PEAKS = (
    "peaklr",
    "maxlr",
    "lrpeak",
    "lrmax",
    "peaklearningrate",
    "maxlearningrate",
    "learningratemax",
    "baselr",
)

SYNONYMS = {
    "lr": (*PEAKS, "learningrate")
}  # headers of a field that no published table has; the first found counts

LOGARITHMS = (
    "log10lr",
    "loglr",
    "lnlr",
    "log2lr",
    "loglearningrate",
    "log10learningrate",
    "lrlog10",
    "lrlog",
)

TRUE = frozenset(("true", "yes", "y", "1", "x", "t"))
FALSE = frozenset(("false", "no", "n", "0", "f"))

NATS = ("lossnats", "lossnatstoken", "lossnatspertoken", "finallossnats", "natspertoken", "natstoken")

SCORE = re.compile(r"(?:^|[^a-z])(?:acc|accuracy|f1|bleu|em|score|mmlu|reward)(?:[^a-z]|$)")

TOKENIZERS = ("tokenizer", "tokenizername", "tokeniser", "tokenizerpath", "tokenizernameorpath", "vocabname")

LIKE = (  # columns in which rows of one law agree, as a rule
    "dataset", "datasetname", "data", "corpus", "trainingdata", "traindata", "trainset", "datamix", "mixture", "text",
    "architecture", "arch", "modeltype", "optimizer", "optimiser", "schedule", "lrschedule", "scheduler", "objective",
    "source", "paper", "language", "lang", "domain", "phase", "stage", "subset", "outlier", "include", "valid", "archived",
    "converged", "stable", "hidden", "evaldataset", "evaldata", "valset", "validationset", "benchmark", "task", "split", "metric",
    "precision", "sweep",
    "seqlen", "seqlength", "sequencelength", "maxseqlen", "context", "contextlength", "ctxlen", "nctx", "blocksize", "npositions",
)  # fmt: skip
