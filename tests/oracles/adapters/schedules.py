"""Adapters of the schedule cases. The cases name a paper's schedule without its settings: these are here."""

from typing import Any

import jax.numpy as jnp

from robustjax import schedules
from tests.oracles.adapters.common import Arrays, Case, arrays


def _half_cosine(case: Case) -> schedules.Schedule:
    return schedules.cosine(1.0, case["hyperparameters"]["epochs"])


MULTIPLIERS = {
    "lr_har": lambda case: schedules.multistep(1.0, (80, 100), 0.1),
    "lr_elr_cosine_restarts": lambda case: schedules.cosine_restarts(1.0, 10, 0.001 / 0.02),
    "lr_elr_c10_asym": lambda case: schedules.multistep(1.0, (40, 80), 0.01),
    "lr_elr_c100": lambda case: schedules.multistep(1.0, (80, 120), 0.01),
    "lr_elr_plus_c10": lambda case: schedules.multistep(1.0, (150,), 0.1),
    "lr_elr_plus_c100": lambda case: schedules.multistep(1.0, (200,), 0.1),
    "lr_sr_mnist": _half_cosine,
    "lr_sr_cifar10": _half_cosine,
    "lr_sr_cifar100": _half_cosine,
}


def multiplier(case: Case, inputs: Arrays) -> dict[str, Any]:
    """Learning rates of HAR, ELR, ELR+ and SR relative to their base."""
    name = max((name for name in MULTIPLIERS if case["id"].startswith(name)), key=len)
    return {"multiplier": MULTIPLIERS[name](case)(inputs["epoch"])}


def ldam(case: Case, inputs: Arrays) -> dict[str, Any]:
    """LDAM's learning rate."""
    return {"lr": schedules.ldam(case["hyperparameters"]["lr"])(inputs["epoch"])}


def forget_rate(case: Case, inputs: Arrays) -> dict[str, Any]:
    """Co-teaching's forget rate, for as many epochs as the case has."""
    hyper = case["hyperparameters"]
    (length,) = arrays(case["file"])[case["outputs"]["rate"]].shape
    schedule = schedules.forget_rate(hyper["forget_rate"], hyper["num_gradual"], hyper["exponent"])
    return {"rate": schedule(jnp.arange(length))}


def dynamic_loss(case: Case, inputs: Arrays) -> dict[str, Any]:
    """Dynamic Loss's learning rate, whose time is given as epoch and iteration."""
    hyper = case["hyperparameters"]
    decay = schedules.cosine(hyper["base_lr"], hyper["max_epochs"])
    schedule = schedules.linear_warmup(decay, hyper["warmup_epochs"], hyper["warmup_ratio"])
    return {"lr": schedule(inputs["epoch"] + inputs["iter_in_epoch"] / hyper["epoch_len"])}


ADAPTERS = {
    "learning-rate multiplier per epoch (epoch 0 first, scheduler stepped after each epoch)": multiplier,
    "LDAM-DRW learning rate": ldam,
    "Co-teaching forget-rate schedule": forget_rate,
    "classifier learning-rate schedule": dynamic_loss,
}
