"""scaling plan: fast, light, and in one line where it cannot."""

import json
import re
import subprocess
import sys

import pytest

from scaling.fitting.predictor import load_law
from scaling.planning.law import find_law
from scaling.planning.notes import doubts
from scaling.planning.plan import named_apart

from . import sealed
from .gallery import STUDIES

HEAVY = ("torch", "transformers", "matplotlib", "scipy", "pandas")


def test_the_card_in_json(cli):
    result = cli("plan", "--law", "kaplan", "--budget", "02:44@8xA100", "--mfu", "0.0684", "--json")
    value = json.loads(result.stdout)
    assert value["mfu"] == 0.0684
    assert value["budget_flops"] == pytest.approx(9840 * 8 * 312e12 * 0.0684)
    chosen = value["recommended"]
    assert {"member", "params", "tokens", "loss", "ppl", "hours"} <= chosen.keys()
    assert (chosen["member"], chosen["params"]) == ("gpt2-52m", 51_475_968)
    assert chosen["ppl"] == 32.54483020726001
    assert chosen["hours"] == pytest.approx(0.985 * (2 + 44 / 60), rel=1e-3)
    assert all(
        {"member", "params", "tokens", "loss", "ppl", "hours"} <= choice.keys()
        for choice in value["frontier"]
    )
    assert [other["law"] for other in value["others"]] == ["chinchilla"]


def test_the_text_says_assumed_and_what_chinchilla_would_choose(cli):
    result = cli("plan", "--law", "kaplan", "--budget", "04:52@8xA100", "--mfu", "0.0748")
    assert "assumed" in result.stdout
    assert "gpt2-83m" in result.stdout
    assert "under chinchilla" in result.stdout
    assert "counts as affordable" in result.stderr
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


def test_the_hours_of_a_target_are_said_to_be_assumed(cli):
    words = ("plan", "--target-loss", "3", "--on", "8xA100")
    assert json.loads(cli(*words, "--json").stdout)["mfu_source"] == "assumed"
    assert "assumed" in cli(*words).stdout


def test_without_study_or_out_it_writes_nothing(cli, tmp_path):
    cli("plan", "--budget", "8xA100-hours", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_heavy_library_is_loaded():
    code = (
        "import sys; sys.argv = ['scaling', 'plan', '--budget', '8xA100-hours', '--json']\n"
        "from scaling.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip().splitlines()[-1] == "[]"


def test_a_hostile_folder_does_not_matter(console, tmp_path):
    for name in ("train.py", "plots.py", "scaling.py", "families.py", "numpy.py"):
        (tmp_path / name).write_text("raise SystemExit('hostile code ran')\n")
    result = console("plan", "--budget", "1.4e18", "--json", cwd=tmp_path)
    assert result.returncode == 0
    assert json.loads(result.stdout)["recommended"]


def test_a_study_holds_the_sealed_plan_and_it_is_not_lost(cli, tmp_path):
    arguments = ("plan", "--budget", "1e19", "--study", str(tmp_path / "study"), "--json")
    value = json.loads(cli(*arguments).stdout)
    path = tmp_path / "study" / "plan.json"
    assert value["path"] == str(path)
    assert json.loads(path.read_text())["seal"]["sealed_at"] == value["sealed_at"]
    again = cli(*arguments)
    assert again.returncode == 2
    assert "--out" in again.stderr
    assert cli(*arguments, "--yes").returncode == 0


def test_a_target_of_a_ladder_runs_shape_has_a_name_of_its_own():
    target = sealed.member("gpt2-941k-l4-d128")
    ladder = sealed.observation(128, 204_800, 3.4, name="gpt2-941k-l4-d128-s0")
    assert [one.member for one in named_apart([target], [ladder])] == ["gpt2-941k-l4-d128-1.02m"]
    itself = sealed.observation(128, target.tokens, 2.95, name="gpt2-941k-l4-d128-s0")
    assert named_apart([target], [itself]) == (target,)


def test_a_plan_beyond_its_rows_repeats_what_the_law_warns_of():
    beyond = load_law(STUDIES / "large-10-sources" / "law.json")
    largest = beyond.domain.N[1]
    assert [text.split()[2] for text in doubts(beyond, largest)] == ["hardly"]
    assert "20 times the largest of the runs" in doubts(beyond, 20 * largest)[1]
    assert doubts(find_law("chinchilla", None), 1e9) == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "8xZ9000-hours"), "known: "),
        (("--budget", "0"), "positive"),
        (("--budget", "1e18", "--law", "kaplam"), "did you mean kaplan"),
        (("--budget", "1e18", "--law", "nowhere/law.json"), "does not exist"),
        (("--budget", "1e18", "--family", "gpt-2"), "did you mean gpt2"),
        (("--budget", "8xA100-hours", "--mfu", "40"), "mfu"),
        (("--budget", "1e3"), "cheapest"),
        (("--budget", "1e18", "--on", "8xZ1"), "accelerator"),
        ((), "--budget is missing"),
        (("--budget", "1e18", "--target-loss", "3"), "one of them decides"),
        (("--target-loss", "3", "--target-ppl", "20"), "one of them decides"),
        (("--target-loss", "1.5"), "E = 1.817"),
        (("--target-ppl", "1"), "above 1"),
        (("--budget", "1e18", "--params", "1M", "--family", "gpt2"), "no member of about 1M"),
        (("--budget", "1e18", "--ratio", "64", "--family", "gpt2"), "give one of them"),
        (("--budget", "1e18", "--within", "wide"), "within"),
        (("--budget", "1e18", "--within", "-1%"), "positive"),
        (("--budget", "1e18", "--rule", "poria"), "did you mean porian"),
        (("--budget", "1e18", "--tokens-available", "0"), "tokens available"),
        (
            ("--budget", "1e18", "--law", "kaplan", "--inference-tokens", "1B"),
            "fixes the tokens of each size",
        ),
        (("--budget", "1e18", "--mfu", "estimate"), "--on"),
        (("--budget", "1e24@8xT4"), "not a time"),
        (("--budget", "1e24", "--on", "T4"), "take more or larger devices"),
        (("--budget", "1e18", "--bugdet", "2"), "No such option"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(cli, tmp_path, arguments, said):
    result = cli("plan", *arguments, "--out", str(tmp_path / "plan.json"), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_answer_in_json(cli):
    ladder = json.loads(cli("plan", "--budget", "1e18,1e19,1e20", "--on", "8xH100", "--json").stdout)
    assert [rung["budget"]["flops"] for rung in ladder["ladder"]] == [1e18, 1e19, 1e20]
    target = json.loads(cli("plan", "--target-ppl", "20", "--json").stdout)
    assert target["recommended"]["ppl"] == pytest.approx(20)
    fixed = json.loads(cli("plan", "--budget", "1000 A100-hours", "--params", "125M", "--json").stdout)
    assert fixed["recommended"]["member"] == "gpt2-125m"
    rules = json.loads(cli("plan", "--budget", "1e20", "--recipes", "--json").stdout)["recipes"]
    assert set(rules) == {"capped", "width", "card", "kaplan", "porian", "deepseek", "steplaw"}
    shaped = json.loads(
        cli(
            "plan", "--budget", "1e14", "--vocab", "1k", "--context", "128", "--head-size", "16", "--json"
        ).stdout
    )["recommended"]
    assert (shaped["vocab_size"], shaped["n_positions"]) == (1000, 128)


def test_an_unwritable_place_is_one_line(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli("plan", "--budget", "1e18", "--out", str(tmp_path / "file" / "plan.json"))
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


ASKS = [
    ["--budget", "8xA100-hours"],
    ["--budget", "1e18,1e19,1e20"],
    ["--budget", "1e22", "--on", "64xH100", "--recipes"],
    ["--target-ppl", "20", "--on", "8xH100"],
    ["--target-loss", "2.9", "--tokens-available", "1B"],
    ["--budget", "1e20", "--params", "125M"],
    ["--budget", "1e21", "--inference-tokens", "1T", "--within", "2%"],
    ["--budget", "8xA100-hours", "--mfu", "estimate", "--times", "1=66m40s,2=40m19s,4=32m44s"],
    ["--budget", "1e20", "--law", "kaplan"],
]


@pytest.mark.parametrize("asked", ASKS, ids=" ".join)
def test_every_kind_of_answer_fits_a_hundred_columns(cli, asked):
    done = cli("plan", *asked)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "BB" not in done.stdout + done.stderr


def test_the_band_says_what_each_other_choice_costs_in_nats_time_and_money(cli):
    done = cli("plan", "--budget", "8xA100-hours", "--json")
    value = json.loads(done.stdout)
    band = value["band"]["members"]
    text = cli("plan", "--budget", "8xA100-hours").stdout.split("within 0.01 nats")[1]
    for member in band:
        (line,) = [line for line in text.splitlines() if line.startswith(member["choice"]["member"] + " ")]
        if member["choice"]["member"] == value["recommended"]["member"]:
            assert "the best" in line
        else:
            assert f"+{member['nats']:.4f}" in line
            assert f"{member['extra_price']:.2f}" in line
    best = min(band, key=lambda member: member["choice"]["inference_flops_per_token"])
    assert best["choice"]["member"] == value["band"]["cheapest_to_serve"]


def test_pareto_members_that_no_law_prefers_are_marked(cli):
    text = cli("plan", "--budget", "8xA100-hours").stdout
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("frontier")}
    assert rows["gpt2-52m"].endswith("–")
    assert rows["gpt2-125m"].endswith("chinchilla")


def test_memory_that_fits_nowhere_says_how_much_and_of_what(cli):
    alone = cli("plan", "--budget", "1e25", "--on", "1xT4").stderr
    assert re.findall(r"[\d.]+ [TG]B", alone) == ["5.65 TB", "16 GB"]
    assert "T4" in alone
    shared = cli("plan", "--budget", "1e24", "--on", "4xH100").stderr
    assert "states sharded over 4; H100 has 80 GB" in shared


def test_an_estimated_mfu_has_its_band_and_shared_work_its_share(cli):
    said = cli(
        "plan", "--budget", "8xA100-hours", "--mfu", "estimate", "--times", "1=66m40s,2=40m19s,4=32m44s"
    ).stderr
    assert "is estimated, 0.12 to 0.18" in said
    assert "MFU = one-device MFU × 0.273" in said


def test_each_of_several_budgets_gets_its_recipe_its_memory_and_how_far_it_reaches(cli):
    text = cli("plan", "--budget", "1e18,1e20", "--on", "8xH100").stdout
    for words in ("recipe capped", "memory ", "extrapolation: ", "expected loss"):
        assert sum(line.startswith(words) or words in line for line in text.splitlines()) == 2, words


def test_a_model_too_large_for_one_device_has_its_states_over_all_of_them(cli):
    asked = ("plan", "--budget", "1024xH100-days")
    (member,) = json.loads(cli(*asked, "--json").stdout)["members"]
    assert member["shards"] == 1024
    assert sum(member["memory"].values()) < 80e9
    assert 18 * member["params"] > 80e9
    assert "over 1024 devices" in cli(*asked).stdout


def test_a_targets_neighbours_are_near_in_cost(cli):
    text = cli("plan", "--target-loss", "2.5").stdout
    shares = [float(line.split()[5]) for line in text.splitlines() if line.startswith("frontier")]
    assert len(shares) == 5
    assert max(shares) < 2


def test_a_decoders_law_says_so_of_an_encoder(cli):
    assert "is of decoders" in cli("plan", "--budget", "1e20", "--family", "bert").stderr
    assert "is of decoders" not in cli("plan", "--budget", "1e20").stderr
