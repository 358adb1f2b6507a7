"""The catalogue holds dense peaks, and is found by any spelling."""

import json

import pytest

from families import member
from families.units import BadInput
from scaling.budget import parse_budget
from scaling.devices import recognise
from scaling.hardware import CATALOGUE, accelerator
from scaling.planning.throughput import estimated_mfu, measured_mfu
from scaling.runs import Run

# Vendors print these with structured sparsity, twice the dense rate (bf16 or fp16 matrix TFLOP/s).
SPARSE = {
    "A100": 624,
    "A100-40GB": 624,
    "H100-PCIe": 1513,
    "H100": 1979,
    "H200": 1979,
    "B200": 4500,
    "L4": 242,
    "L40S": 733,
    "A10G": 140,
    "RTX-3090": 142,
    "RTX-4090": 330.3,
    "RTX-5090": 419,
    "MI300X": 2614.9,
    "H100-NVL": 1671,
    "H200-NVL": 1671,
    "GH200": 1979,
    "H800": 1979,
    "H20": 296,
    "A800": 624,
    "A30": 330,
    "A40": 299.4,
    "A10": 250,
    "A6000": 309.7,
    "L40": 362.1,
    "RTX-3090-Ti": 160,
    "RTX-6000-Ada": 728.5,
    "RTX-PRO-6000": 1007.6,
    "B300": 4500,
    "GB200": 5000,
    "MI325X": 2614.9,
    "MI355X": 5033.2,
}
# Dense, as their vendors print them.
DENSE = {"V100": 125, "V100-PCIe": 112, "MI250X": 383 / 2, "MI250": 362.1 / 2, "TPU-v3": 123, "TPU-v4": 275}
DENSE |= {"TPU-v5e": 197, "TPU-v5p": 459, "TPU-v6e": 918}


@pytest.mark.parametrize("name", SPARSE)
def test_peaks_are_dense_not_sparse(name):
    assert accelerator(name).training_peak / 1e12 == pytest.approx(SPARSE[name] / 2, rel=0.02)


@pytest.mark.parametrize("name", DENSE)
def test_peaks_that_are_printed_dense_are_kept(name):
    assert accelerator(name).training_peak / 1e12 == pytest.approx(DENSE[name], rel=1e-3)


def test_every_entry_has_its_source_and_is_found_by_its_own_name():
    for name, entry in CATALOGUE.items():
        assert accelerator(name) is entry
        assert entry.source.split(";")[0].split()[0] in {"NVIDIA", "AMD", "Google"}
        assert (entry.price is None) == entry.source.endswith("; no price")


@pytest.mark.parametrize(
    "name",
    [
        "V100",
        "A100-40GB",
        "A100-80GB",
        "H100-PCIe",
        "H100-SXM",
        "H200",
        "B200",
        "L4",
        "L40S",
        "A10G",
        "T4",
        "RTX3090",
        "RTX-4090",
        "rtx_5090",
        "MI250X",
        "MI300X",
        "TPU-v4",
        "TPUv5e",
        "v5p",
        "a100",
    ],
)
def test_the_accelerators_people_rent_are_there(name):
    found = accelerator(name)
    assert found.training_peak > 1e13
    assert found.memory >= 16e9
    assert found.bandwidth >= 3e11
    assert found.source


def test_a100_is_312_teraflops_of_bf16():
    found = accelerator("a100")
    assert (found.training_format, found.training_peak) == ("bf16", 312e12)


def test_devices_without_bf16_train_in_fp16():
    assert {name for name, entry in CATALOGUE.items() if entry.training_format == "fp16"} == {
        "V100",
        "V100-32GB",
        "V100-PCIe",
        "V100-PCIe-32GB",
        "T4",
    }


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(BadInput, match="did you mean H100"):
        accelerator("H1000")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", (1, "A100")),
        ("NVIDIA H100 80GB HBM3", (1, "H100")),
        ("NVIDIA H100 PCIe", (1, "H100-PCIe")),
        ("NVIDIA A100-SXM4-40GB", (1, "A100-40GB")),
        ("8xNVIDIA A100-PCIE-40GB", (8, "A100-40GB")),
        ("Tesla V100-SXM2-16GB", (1, "V100")),
        ("Tesla V100-SXM2-32GB", (1, "V100-32GB")),
        ("NVIDIA GeForce RTX 4090", (1, "RTX-4090")),
        ("rtx4090", (1, "RTX-4090")),
        ("a100 80gb", (1, "A100")),
        ("4 x H100s", (4, "H100")),
        ("NVIDIA L4", (1, "L4")),
        ("NVIDIA L40", (1, "L40")),
        ("NVIDIA T400 4GB", (1, None)),
        ("NVIDIA A100X", (1, None)),
        ("NVIDIA GB200", (1, "GB200")),
        ("NVIDIA H100 NVL", (1, "H100-NVL")),
        ("NVIDIA H200 NVL", (1, "H200-NVL")),
        ("NVIDIA GH200 480GB", (1, "GH200")),
        ("NVIDIA GH200 144G HBM3e", (1, "GH200-144GB")),
        ("NVIDIA H800", (1, "H800")),
        ("NVIDIA H20", (1, "H20")),
        ("NVIDIA A800-SXM4-80GB", (1, "A800")),
        ("NVIDIA A10", (1, "A10")),
        ("NVIDIA A10G", (1, "A10G")),
        ("NVIDIA A30", (1, "A30")),
        ("NVIDIA A40", (1, "A40")),
        ("NVIDIA RTX A6000", (1, "A6000")),
        ("NVIDIA RTX 6000 Ada Generation", (1, "RTX-6000-Ada")),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", (1, "RTX-PRO-6000")),
        ("NVIDIA GeForce RTX 3090 Ti", (1, "RTX-3090-Ti")),
        ("NVIDIA B300", (1, "B300")),
        ("Tesla V100-PCIE-16GB", (1, "V100-PCIe")),
        ("Tesla V100-PCIE-32GB", (1, "V100-PCIe-32GB")),
        ("AMD Instinct MI250X", (1, "MI250X")),
        ("AMD Instinct MI325X", (1, "MI325X")),
        ("AMD Instinct MI355X", (1, "MI355X")),
        ("TPU v5 lite", (1, "TPU-v5e")),
        ("TPU v6 lite", (1, "TPU-v6e")),
        ("NVIDIA L40S", (1, "L40S")),
        ("8xA100", (8, "A100")),
        ("x86_64 v4", (1, None)),
        ("cpu", (1, None)),
        ("", (1, None)),
    ],
)
def test_a_drivers_name_is_recognised(said, found):
    count, entry = recognise(said)
    assert (count, entry and entry.name) == found


def own(tmp_path, monkeypatch, **changes):
    entry = {
        "name": "Z9000",
        "teraflops": {"bf16": 1000},
        "memory_gb": 100,
        "bandwidth_gb_s": 5000,
        **changes,
    }
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps({"kind": "hardware", "version": 1, "accelerators": [entry]}))
    monkeypatch.setenv("SCALING_HARDWARE", str(path))


def test_accelerators_of_ones_own_are_known(tmp_path, monkeypatch):
    own(tmp_path, monkeypatch)
    assert accelerator("z9000").training_peak == 1e15
    assert parse_budget("8xZ9000-hours").flops == pytest.approx(8 * 3600 * 1e15 * 0.4)


@pytest.mark.parametrize(
    ("name", "said", "known"),
    [
        ("Xeon Platinum 8488C", "Intel(R) Xeon(R) Platinum 8488C 143 amx_bf16", True),
        ("Xeon Platinum 8488", "Intel(R) Xeon(R) Platinum 8488C 143 amx_bf16", False),
        ("h100 80gb", "NVIDIA H100 80GB HBM3", True),
        ("vega 64", "AMD Vega 64", True),
        ("_", "NVIDIA Z1", False),
    ],
)
def test_an_accelerator_of_ones_own_is_recognised_by_all_its_words(tmp_path, monkeypatch, name, said, known):
    own(tmp_path, monkeypatch, name=name)
    _, entry = recognise(said)
    assert (entry is not None and entry.name == name) is known


@pytest.mark.parametrize(
    "changes", [{"teraflops": {"int8": 1}}, {"teraflops": {"bf16": -1}}, {"memory_gb": 0}, {"colour": "red"}]
)
def test_a_broken_file_of_ones_own_is_named(tmp_path, monkeypatch, changes):
    own(tmp_path, monkeypatch, **changes)
    with pytest.raises(BadInput, match=r"hardware\.json"):
        accelerator("A100")


def run_on(name, mfu, devices=1):
    peak = accelerator(name).training_peak
    return Run(
        run=f"{name}-{mfu}",
        params=1e8,
        tokens=1e9,
        loss=3.0,
        compute=1e18,
        compute_kind="exact",
        wall_s=1e18 / (devices * peak * mfu),
        accelerator=name if devices == 1 else f"{devices}x{name}",
    )


def test_mfu_is_measured_on_runs_of_the_same_device_only():
    runs = [run_on("A100", 0.3), run_on("A100", 0.35, devices=8), run_on("A100", 0.5), run_on("H100", 0.1)]
    assert measured_mfu(runs, accelerator("A100")) == pytest.approx(0.35)
    assert measured_mfu(runs, accelerator("L4")) is None


@pytest.mark.parametrize(
    ("name", "low", "high"), [("gpt2", 0.45, 0.5), ("gpt2-medium", 0.5, 0.55), ("gpt2-large", 0.5, 0.55)]
)
def test_estimated_mfu_meets_published_figures_on_one_h200(name, low, high):
    found = estimated_mfu(member(name).spec, accelerator("H200"), micro_batch=16, batch_sequences=512)
    assert low <= found.mfu <= high + 1e-3
    assert found.low < low < high < found.high


def test_a_small_batch_lowers_the_estimate():
    spec = member("gpt2").spec
    few, many = (
        estimated_mfu(spec, accelerator("A100"), micro_batch=1, batch_sequences=batch).mfu
        for batch in (1, 512)
    )
    assert few < many


def test_the_command_lists_and_names(cli):
    assert {"A100", "TPU-v5p"} <= {
        entry["name"] for entry in json.loads(cli("hardware", "--json").stdout)["accelerators"]
    }
    assert "312" in cli("hardware", "a100").stdout
    assert cli("hardware", "a1000").returncode == 2
