"""The private parts of DeepSpeed that we use are there; where one is not, its name stands in the failure."""

import importlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoint.deepspeed_private import EXCHANGES, _mark_bad_norm
from tests.jobs_for_tests import small_job

PLAIN = ("param_groups",)
FLAT = (
    "optimizer", "param_groups", "single_partition_of_fp32_groups", "bit16_groups", "update_lp_params",
)  # fmt: skip
SCATTERED = (
    "optimizer", "param_groups", "fp32_partitioned_groups_flat", "grad_position", "get_param_id",
    "sub_group_to_group_id",
    "_reassign_or_swap_out_partitioned_parameters", "checkpoint_event_epilogue",
)  # fmt: skip
OF_OPTIMIZER = {
    (0, "fp32"): PLAIN,
    (0, "bf16"): PLAIN,
    (0, "bf16_pure"): ("optimizer", "param_groups", "fp16_groups", "fp32_groups"),
    (1, "fp32"): FLAT,
    (1, "bf16"): FLAT,
    (1, "bf16_pure"): FLAT,
    (2, "fp32"): FLAT,
    (2, "bf16"): FLAT,
    (2, "bf16_pure"): FLAT,
    (3, "fp32"): SCATTERED,
    (3, "bf16"): SCATTERED,
    (3, "bf16_pure"): SCATTERED,
}
ADDRESSES = (
    "_hp_mapping.hp_fragment_address.start",
    "_hp_mapping.hp_fragment_address.numel",
    "_hp_mapping.lp_fragment_address.start",
)
OF_PARAMETERS = {0: (), 1: ADDRESSES, 2: ADDRESSES, 3: ("ds_numel",)}
NORMS = ("mask_nan_or_inf_with_val_inplace", "is_invalid_grad_norm")
"""Functions by which stages 1 and 2 look at the norm of the gradient."""
OF_MODULES = (
    ("deepspeed.comm.torch", "build_shm_op"),
    ("deepspeed.runtime.fp16.unfused_optimizer", "FP16_UnfusedOptimizer"),
    *(("deepspeed.runtime.zero.stage_1_and_2", name) for name in NORMS),
    ("deepspeed.runtime.zero.utils", "ZERO_SUPPORTED_OPTIMIZERS"),
    ("deepspeed.comm.comm", "cdb"),
    *(("deepspeed.comm.torch", f"TorchBackend.{name}") for name in EXCHANGES),
)


def missing(job: Any) -> list[str]:
    """Names that DeepSpeed's engine for a job lacks, and kinds that changed."""
    import torch

    from models.registry import make_spec
    from orchestrator.training.engine import TrainingEngine

    spec = make_spec(job.model.name, job.model.options)
    engine = TrainingEngine(spec.build(0), job.train, device="cpu", tasks=len(spec.tasks)).deepspeed
    stage, optimizer = job.train.zero_stage, engine.optimizer
    lost = [f"optimizer.{name}" for name in OF_OPTIMIZER[stage, job.train.precision] if not has(optimizer, name)]
    parameter = next(engine.module.parameters())
    lost += [f"parameter.{name}" for name in OF_PARAMETERS[stage] if not has(parameter, name)]
    lost += [f"{module}.{name}" for module, name in OF_MODULES if not has(importlib.import_module(module), name)]
    if isinstance(optimizer, torch.optim.Optimizer) != (stage == 0 and job.train.precision != "bf16_pure"):
        lost.append(f"the optimizer of stage {stage} in {job.train.precision} is {type(optimizer).__name__}")
    if engine.zero_optimization_stage() != stage:
        lost.append("engine.zero_optimization_stage()")
    return lost


def has(thing: Any, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True


@pytest.mark.parametrize(("stage", "precision"), OF_OPTIMIZER)
def test_private_parts_are_there(ranks: Any, small_store: Path, stage: int, precision: str) -> None:
    job = small_job(small_store, train={"zero_stage": stage, "precision": precision})
    assert ranks(1, missing, job) == [[]]


@pytest.mark.parametrize(("norm", "marked"), [(2.5, 2.5), (float("nan"), -1.0), (float("inf"), -1.0)])
def test_a_bad_norm_is_marked_where_it_lies(norm: float, marked: float) -> None:
    found = torch.tensor(norm)
    _mark_bad_norm(found, device="cpu")
    assert found.item() == marked


def step_as_on_cuda(job: Any, spoilt: bool) -> tuple[float, set[str], str]:
    """One step with the norm's functions of CUDA: DeepSpeed's norm, which of them it called, what the report raised."""
    from orchestrator.checkpoint.deepspeed_private import set_up_deepspeed
    from orchestrator.run.failures import TrainingDivergedError
    from tests.gpu.training import batches_of, make_engine, open_job

    zero = importlib.import_module("deepspeed.runtime.zero.stage_1_and_2")
    own = {name: getattr(zero, name) for name in NORMS}
    parts = open_job(job)
    engine = make_engine(parts, "cpu")
    called = set()

    def noted(name: str) -> Any:
        ours = getattr(zero, name)
        assert ours is not own[name]

        def function(*arguments: Any, **options: Any) -> Any:
            called.add(name)
            return ours(*arguments, **options)

        return function

    try:
        set_up_deepspeed("cuda")
        for name in NORMS:
            setattr(zero, name, noted(name))
        if spoilt:
            next(engine.deepspeed.module.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        report = engine.begin(next(iter(batches_of(parts, 1))), job.seed, lr=1e-3)
        norm = float(engine.deepspeed.get_global_grad_norm())
        try:
            report.read()
        except TrainingDivergedError as error:
            return norm, called, str(error)
        return norm, called, ""
    finally:
        for name, function in own.items():
            setattr(zero, name, function)


@pytest.mark.parametrize("stage", [1, 2])
def test_on_cuda_the_host_believes_a_norm_until_it_reads_the_report(ranks: Any, small_store: Path, stage: int) -> None:
    """DeepSpeed's own functions wait for the device; it must look them up where ours replace them."""
    job = small_job(small_store, train={"zero_stage": stage, "clip_norm": 0.5})
    [(norm, called, raised)] = ranks(1, step_as_on_cuda, job, False)
    assert 0.5 < norm < math.inf and called == set(NORMS) and not raised
    [(norm, called, raised)] = ranks(1, step_as_on_cuda, job, True)
    assert norm == math.inf and called == set(NORMS) and "gradient is NaN or infinite" in raised


def test_deepspeed_comes_without_mlflow_and_torchs_code_generator() -> None:
    code = (
        "import sys; from orchestrator.checkpoint.deepspeed_private import set_up_deepspeed; set_up_deepspeed('cpu')\n"
        "import deepspeed; from deepspeed.runtime.zero.muon import muon_optimizer\n"
        "print({'mlflow', 'torch._inductor'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stdout + done.stderr
