"""Tables of labs in several countries and of more trackers: read, or said, never silently something else."""

import pytest

from families.units import BadInput
from scaling.runs.readers import parse_columns, read_runs

ROWS = [(1e7, 2e8, 4.3), (2e7, 4e8, 4.1)]
HEADER = "run,params,tokens,loss\n"
SIZES = {
    "Russian": "run;params;tokens;loss\na;10 млн;0,2 млрд;4,3\nb;20 млн;0,4 млрд;4,1\n",
    "Spanish": "run;params;tokens;loss\na;10 millones;200 millones;4,3\nb;20 millones;400 millones;4,1\n",
    "Indian": f"{HEADER}a,1 crore,20 crore,4.3\nb,200 lakh,40 crore,4.1\n",
    "finance": f"{HEADER}a,10MM,200MM,4.3\nb,20MM,400MM,4.1\n",
    "units of finance": "run,params (MM),tokens (MM),loss\na,10,200,4.3\nb,20,400,4.1\n",
    "units in German": "run;params (Mill.);tokens (Mrd.);loss\na;10;0,2;4,3\nb;20;0,4;4,1\n",
    "Arabic digits": f"{HEADER}a,١٠٠٠٠٠٠٠,٢٠٠٠٠٠٠٠٠,٤٫٣\nb,20000000,400000000,4.1\n",
    "full width": f"{HEADER}a,１００００００0,200000000,４.3\nb,20000000,400000000,4.1\n",
    "cells as formulas": f'{HEADER}="a",="10000000",="200000000",="4.3"\n="b",="20000000",="400000000",="4.1"\n',
    "ClearML": (
        "TYPE,NAME,STATUS,ITERATION,hparams/n_params,validation loss (last),hparams/tokens\n"
        "Training,a,Completed,1,1e7,4.3,2e8\nTraining,b,Completed,2,2e7,4.1,4e8\nTraining,c,Aborted,2,4e7,4.9,8e8\n"
    ),
    "Ray Tune": (
        "trial_id,status,config/n_params,config/tokens,eval_loss,training_iteration\n"
        "a,TERMINATED,1e7,2e8,4.3,9\nb,TERMINATED,2e7,4e8,4.1,9\nc,ERROR,4e7,8e8,9,1\n"
    ),
    "SageMaker": (
        "TrainingJobName,TrainingJobStatus,n_params,tokens,validation:loss\na,Completed,1e7,2e8,4.3\nb,Completed,2e7,4e8,4.1\n"
        "c,Stopped,4e7,1e3,9\n"
    ),
    "data set and epochs": "run,params,dataset_tokens,epochs,val_loss\na,1e7,1e8,2,4.3\nb,2e7,1e8,4,4.1\n",
    "tokens/iter": "run,params,iters,tokens/iter,val_loss\na,1e7,400,500000,4.3\nb,2e7,800,500000,4.1\n",
    "reStructuredText": "===  ======  ======  ====\nrun  params  tokens  loss\n===  ======  ======  ====\n"
    "a    10M     200M    4.3\nb    20M     400M    4.1\n===  ======  ======  ====\n",
    "a printed frame": "  run    params     tokens  loss\n0   a  10000000  200000000   4.3\n1   b  20000000  400000000   4.1\n",
    "R": '"run" "params" "tokens" "loss"\n"1" "a" 1e7 2e8 4.3\n"2" "b" 2e7 4e8 4.1\n',
}  # fmt: skip


def read(tmp_path, text, columns=""):
    (tmp_path / "a.csv").write_text(text)
    return read_runs(tmp_path / "a.csv", column_names=parse_columns(columns))


@pytest.mark.parametrize("lab", SIZES)
def test_a_table_of_another_country_or_tracker_gives_its_numbers(lab, tmp_path):
    found = read(tmp_path, SIZES[lab])
    assert [(run.params, run.tokens, run.loss) for run in found] == [pytest.approx(row) for row in ROWS]
    if lab not in ("ClearML", "Ray Tune", "SageMaker"):
        assert found[0].run in ("a", "row 2")


def test_headers_of_other_languages_are_found_for_the_hint(tmp_path):
    text = "Lauf;Parameter;Token;Validierungsverlust\na;10.000.000;200.000.000;4,3\n"
    with pytest.raises(BadInput, match=r"--columns .*params=Parameter,tokens=Token,loss=Validierungsverlust"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("run,params,tokens,loss,loss\na,1e7,2e8,4.3,4.5\nb,2e7,4e8,4.1,4.4\n", "", "two columns are called 'loss'"),
        (f"{HEADER}a,1e7,2e8,4.3\nb,2e7,4e8,4.1\nmean,1.5e7,3e8,4.2\n", "", "the row 'mean' seems to sum up"),
        ("run,tag,params,tokens,value\na,eval/loss,1e7,2e8,4.3\na,train/loss,1e7,2e8,4.2\nb,eval/loss,2e7,4e8,4\n", "loss=value",
         "several losses"),
        ("run,params,tokens,val_acc\na,1e7,2e8,0.43\nb,2e7,4e8,0.41\n", "loss=val_acc", "its name suggests a score"),
    ],
)  # fmt: skip
def test_what_a_table_may_not_mean_is_said(text, columns, said, tmp_path):
    assert any(said in note for note in read(tmp_path, text, columns).warnings)


def test_losses_in_two_units_by_a_column_of_units_are_refused(tmp_path):
    with pytest.raises(BadInput, match="says bits and nats"):
        read(tmp_path, "run,params,tokens,loss,unit\na,1e7,2e8,4.3,nats\nb,2e7,4e8,5.9,bits\n")


def test_a_column_that_says_decayed_says_annealed(tmp_path):
    found = read(tmp_path, "run,params,tokens,loss,decayed\na,1e7,2e8,4.3,False\nb,2e7,4e8,4.1,True\n")
    assert [run.annealed for run in found] == [False, True]
