"""The part of a job spec that says how the model is optimised."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from orchestrator.spec.section import Positive, Section

LossWeighting = Literal["token", "sample"]
Optimizer = Literal["adamw", "muon"]
Beta = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["fp32", "bf16", "bf16_pure"]


class ProfileSection(Section):
    """Steps of the run of which rank 0 keeps a trace; written ``{from: 100, steps: 5}``."""

    model_config = ConfigDict(populate_by_name=True)
    first: Annotated[int, Field(ge=0, alias="from")]
    """Number of the first one, counted from 0."""
    steps: Positive = 5


class TrainSection(Section):
    """Optimisation: AdamW, or Muon beside it; warm-up and half cosine (HeterCSI section IV)."""

    epochs: Positive = 1
    optimizer: Optimizer = "adamw"
    """``muon``: for the weights of the linear layers in the blocks; AdamW for all else."""
    lr: Annotated[float, Field(gt=0)] = 8e-4
    muon_lr: Annotated[float, Field(gt=0)] = 0.02
    """Of the weights that Muon trains, whose updates have spectral norm 1 (Jordan 2024); it follows the schedule of
    ``lr``."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    freeze: tuple[str, ...] = ()
    """Parts of the model whose weights stay as they are: beginnings of their parameters' names, e.g. encoder."""
    layer_lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from one layer to the one before it (BEiT, MAE); 1: the same in all layers."""
    loss_weighting: LossWeighting = "token"
    """What counts the same within a step: every masked token (published), or every sample whatever its length."""
    precision: Precision = "fp32"
    """``bf16``: mixed precision, weights and gradients in fp32; ``bf16_pure``: both in bf16 beside fp32 masters."""
    tf32: bool = False
    """On CUDA, fp32 products in TF32: 10 bits of mantissa, several times faster."""
    activation_checkpointing: bool = False
    """Recompute the activations of every block in the backward pass instead of keeping them."""
    compile: bool = False
    """torch.compile of every block, one graph a shape; not with ZeRO stage 3, which takes weights apart."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    loader_threads: Positive | None = None
    """That prepare the next steps; null: one for each core of a rank but that of the training."""
    prefetch: Positive = 4
    """Steps that are prepared ahead of the one being trained."""
    profile: ProfileSection | None = None
    """Steps to profile: a trace and a summary in the run's folder and among its artifacts."""

    @model_validator(mode="after")
    def _whole_weights(self) -> "TrainSection":
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile does not work with zero_stage 3; drop one of them")
        return self

    @model_validator(mode="after")
    def _rate_is_used(self) -> "TrainSection":
        if self.optimizer != "muon" and self.muon_lr != type(self).model_fields["muon_lr"].default:
            raise ValueError("muon_lr is the rate of Muon; set optimizer to muon, or leave muon_lr out")
        return self
