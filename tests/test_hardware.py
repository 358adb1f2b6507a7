"""The catalogue holds dense peaks, and is found by any spelling."""

import pytest

from families.errors import BadInput
from scaling.hardware import CATALOGUE, accelerator

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
}


@pytest.mark.parametrize("name", SPARSE)
def test_peaks_are_dense_not_sparse(name):
    assert accelerator(name).training_peak / 1e12 == pytest.approx(SPARSE[name] / 2, rel=0.02)


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
        "T4",
    }


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(BadInput, match="did you mean H100"):
        accelerator("H1000")
