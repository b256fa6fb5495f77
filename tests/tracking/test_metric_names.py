"""Names of metrics in MLflow and in the files of a run."""

import pytest

from sg3flow.tracking.metric_names import grouped_name, recorded_name

_NAMES = {
    "Loss/G/loss": "loss/G",
    "Loss/D/loss": "loss/D",
    "Loss/D/reg": "loss/D_reg",
    "Loss/r1_penalty": "loss/r1_penalty",
    "Loss/signs/real": "loss/signs_real",
    "Timing/sec_per_kimg": "time/sec_per_kimg",
    "Progress/augment": "progress/augment",
    "Resources/peak_gpu_mem_gb": "memory/peak_gpu_mem_gb",
    "Repairs/Gmain": "repairs/Gmain",
    "system/cpu_utilization_percentage": "system/cpu_utilization_percentage",
    "fd_random500_full": "metrics/fd_random500_full",
}


@pytest.mark.parametrize(("recorded", "grouped"), _NAMES.items())
def test_a_name_has_one_group_and_comes_back(recorded, grouped):
    assert grouped_name(recorded) == grouped and grouped.count("/") == 1
    assert recorded_name(grouped) == recorded
    assert recorded_name(recorded) == recorded, "a run of an earlier version"


def test_numbers_about_data_have_a_group_of_their_own():
    assert grouped_name("num_images/train/cat", "fetch") == "data/num_images train cat"
    assert grouped_name("best_fid50k_full", "evaluate") == "metrics/best_fid50k_full"
