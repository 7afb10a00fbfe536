"""The training loop that every lesson uses: fine-tune a chat model on its answers, and lose nothing on the way.

One optimizer step is: some rows -> the summed loss of their answer tokens over their count -> gradients -> clip ->
AdamW. The mean is over all answer tokens of the step, however it is cut into micro-batches: averaging the
micro-batches' own means would weigh a token in a short answer more than one in a long answer.

The same code runs on a CPU and on CUDA. Losses stay on the device and are fetched every few steps, because fetching
one makes the GPU wait for the Python program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from course.training.adapters import refuse_repacked_weights, save_adapter
from course.training.batching import answer_loss_sum, make_batch, shared_prefix_model
from course.training.checkpoint import trainable_parameters
from course.training.config import TrainingConfig
from course.training.encoding import Encoded, encode_rows
from course.training.interrupt import BetweenSteps
from course.training.order import micro_batches, rows_of_step
from course.training.run import RunState, TrainingRun


def train(
    model: Any,
    tokenizer: Any,
    rows: Iterable[Any],
    config: TrainingConfig,
    folder: Path | str,
    resume: bool = True,
    progress: bool = True,
) -> TrainingRun:
    """Fine-tune `model` (from `add_adapter`) on `rows` of chat messages; everything it keeps is in `folder`.

    Called again with the same arguments after an interrupt, a crash or a full disk, it goes on from the last checkpoint
    and ends with the same bits as a run that was never stopped; a finished run is loaded, not repeated. (On CUDA some
    kernels add in no fixed order, stopped or not: torch.use_deterministic_algorithms(True) makes that exact too.)

    Raises ValueError for a 4-bit model that has answered before, EncodingError for a row that cannot be trained on,
    CheckpointError where the folder holds another run or cannot be written, TrainingDivergedError at the first step
    whose loss is not finite. KeyboardInterrupt is raised again after a checkpoint is saved.
    """
    refuse_repacked_weights(model)
    encoded = encode_rows(rows, tokenizer, config.max_length)
    device = next(model.parameters()).device
    # Fused: one kernel for all weights instead of about ten for each of LoRA's 420.
    optimizer = torch.optim.AdamW(
        trainable_parameters(model).values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(config.seed)
    run = RunState.open(Path(folder), model, optimizer, encoded, config, resume)
    bar = tqdm(total=run.steps, initial=run.step, desc="training", unit="step", disable=not progress)
    model.train()
    with run.logging(), bar, shared_prefix_model(model), BetweenSteps() as interrupt:
        while run.step < run.steps:
            step_rows = [encoded.rows[index] for index in rows_of_step(run.step, len(encoded.rows), config)]
            learning_rate = config.learning_rate_at(run.step, run.steps)
            loss, norm = optimizer_step(model, optimizer, step_rows, config, learning_rate, device)
            run.record(loss, norm, learning_rate, step_rows)
            bar.update()
            if run.fetch_due or interrupt.requested:
                bar.set_postfix(run.fetch())
            if run.save_due or interrupt.requested:
                run.save_checkpoint()
            if interrupt.requested:
                raise KeyboardInterrupt
    model.eval()
    return run.finish(save_adapter(model, Path(folder) / "adapter"), device)


def optimizer_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Encoded],
    config: TrainingConfig,
    learning_rate: float,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step over `rows`; returns the mean loss of their answer tokens and the gradient's norm before clipping."""
    answer_tokens = sum(row.answer_tokens for row in rows)
    loss = torch.zeros((), device=device)
    for part in micro_batches(rows, config.micro_batch_size):
        batch = make_batch(part, config.share_prefixes).to(device)
        part_loss = answer_loss_sum(model, batch) / answer_tokens
        part_loss.backward()
        loss += part_loss.detach()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm
