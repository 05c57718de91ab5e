"""How a machine is shared out among cells."""

import pytest

from compbench.errors import SettingsError
from compbench.run.slots import cpu_slots, gpu_slots, plan_slots, visible_gpus


@pytest.mark.parametrize(
    ("cores", "jobs", "threads", "slots", "share"),
    [
        (1, None, None, 1, 1),
        (2, None, None, 1, 2),
        (3, None, None, 1, 3),
        (8, None, None, 4, 2),
        (8, None, 1, 8, 1),
        (8, None, 3, 2, 3),
        (2, None, 4, 1, 4),
        (8, 2, None, 2, 4),
        (8, 3, None, 3, 2),
        (2, 4, None, 4, 1),
        (8, 2, 1, 2, 1),
    ],
)
def test_cores_are_shared_out(cores, jobs, threads, slots, share):
    planned = cpu_slots(cores, jobs, threads)
    assert (len(planned), {slot.threads for slot in planned}) == (slots, {share})
    assert all(slot.gpu is None for slot in planned)


def test_a_gpu_is_a_slot_of_its_own():
    slots = gpu_slots(["0", "1"], cores=8)
    assert [(slot.gpu, slot.threads) for slot in slots] == [("0", 4), ("1", 4)]
    assert [slot.gpu for slot in gpu_slots(["0", "1"], cores=8, jobs=1)] == ["0"]


def test_more_jobs_than_gpus_is_an_error():
    with pytest.raises(SettingsError, match=r"--jobs 3.*allowed: 1 to 2"):
        gpu_slots(["0", "1"], cores=8, jobs=3)


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr("compbench.run.slots.visible_gpus", list)
    with pytest.raises(SettingsError, match="no CUDA device"):
        plan_slots("cuda")
    monkeypatch.setattr("compbench.run.slots.visible_gpus", lambda: ["5"])
    with pytest.raises(SettingsError, match=r"'cuda:1'.*allowed here: cpu, cuda:0"):
        plan_slots("cuda:1")
    assert [slot.gpu for slot in plan_slots("cuda:0")] == ["5"]
    with pytest.raises(SettingsError, match="unknown device 'tpu'"):
        plan_slots("tpu")


def test_gpus_are_named_as_the_user_has_named_them(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-77")
    assert visible_gpus() == ["2", "GPU-77"]
