"""One process or many: who started us says how many we are; Lightning Fabric does the rest."""

import os

import torch
from lightning_fabric import Fabric

_COUNTS = (("WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"))
"""Environment variables of all processes and of those on this machine: torchrun's, then SLURM's."""


def fabric_for(device: torch.device) -> Fabric:
    """The engine for this run: alone, or one of the processes that torchrun or srun started.

    Args:
        device: "cpu" or "cuda"; with several processes each takes its own GPU.

    Mixed precision is not left to Fabric: it rounds the network's inputs to bfloat16, and a noisy slice at sigma 40
    then has lost what it knew of the anatomy. See :mod:`mri_minority.training.precision`.
    """
    everywhere, here = _processes()
    fabric = Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=everywhere // here,
        strategy="ddp" if everywhere > 1 else "auto",
    )
    fabric.launch()
    return fabric


def is_first() -> bool:
    """Whether this process is the one that writes; true when there is only one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) if _processes()[0] > 1 else "0") == 0


def _processes() -> tuple[int, int]:
    """All processes of this run, and those on this machine."""
    for everywhere, here in _COUNTS:
        # An interactive SLURM shell sets its variables too, for one task.
        if int(os.environ.get(everywhere, "1")) > 1:
            return int(os.environ[everywhere]), int(os.environ.get(here, os.environ[everywhere]))
    return 1, 1
