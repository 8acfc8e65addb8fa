"""A training run's state on disk: model, optimiser, progress, tokenizer.

A checkpoint replaces the old one in one move, so a run can be killed at any time.
"""

import os
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer

from .config import DemoConfig
from .model import DemoModel
from .objective import optimizer_for
from .tokenizer import train_tokenizer


class Progress(msgspec.Struct, kw_only=True):
    """How far a run has come."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a step changes."""

    model: DemoModel
    optimizer: torch.optim.AdamW
    progress: Progress


def save(work_dir: Path, run: Run) -> None:
    """Write `checkpoint.pt`."""
    state = {
        "config": msgspec.structs.asdict(run.model.config),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "progress": msgspec.structs.asdict(run.progress),
    }
    scratch = work_dir / "checkpoint.partial"
    torch.save(state, scratch)
    os.replace(scratch, work_dir / "checkpoint.pt")


def resume(work_dir: Path, seed: int) -> Run:
    """The run as last saved, or a fresh one initialised with `seed`."""
    path = work_dir / "checkpoint.pt"
    torch.manual_seed(seed)
    if not path.exists():
        model = DemoModel(DemoConfig())
        return Run(model=model, optimizer=optimizer_for(model), progress=Progress())
    model = load_model(work_dir)
    optimizer = optimizer_for(model)
    state = torch.load(path, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return Run(model=model, optimizer=optimizer, progress=Progress(**state["progress"]))


def load_model(work_dir: Path) -> DemoModel:
    """The model of a run as last saved."""
    state = torch.load(work_dir / "checkpoint.pt", weights_only=True)
    model = DemoModel(DemoConfig(**state["config"]))
    model.load_state_dict(state["model"])
    return model


def load_tokenizer(work_dir: Path) -> Tokenizer:
    """The tokenizer of a run."""
    return Tokenizer.from_file(str(work_dir / "tokenizer.json"))


def make_tokenizer(work_dir: Path, seed: int) -> None:
    """Train the tokenizer, unless the run has one."""
    path = work_dir / "tokenizer.json"
    if not path.exists():
        train_tokenizer(seed, DemoConfig().vocab_size).save(str(path))
