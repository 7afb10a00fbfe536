"""LoRA adapters through peft: put one on, save it, load it again, merge it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from course.training.config import TrainingConfig

if TYPE_CHECKING:
    from grader.adapters.evaluation import Adapter


def add_adapter(model: Any, config: TrainingConfig) -> Any:
    """The model ready to train by `config.method`: a peft model, or for "full" the model itself, all weights trainable.

    Adapter weights are float32 also on bf16 weights (peft's own choice): an update of 1e-3 of a weight is below what
    bf16's 8 bits of precision can add. For "qlora" the base must be loaded in NF4; adding the adapter freezes it.
    peft's prepare_model_for_kbit_training is not called: what it does beyond freezing is to widen all other weights
    to float32 (SmolLM2's 57 MB of embeddings become 113 MB) and to switch on gradient checkpointing.
    """
    quantized = bool(getattr(model, "is_loaded_in_4bit", False))
    if config.method == "qlora" and not quantized:
        raise ValueError('method="qlora" needs weights in NF4. Load the base with load_base_model(quantize="nf4").')
    if config.method != "qlora" and quantized:
        raise ValueError(f'method="{config.method}" needs unquantised weights, and this model is in NF4. Use "qlora".')
    if hasattr(model, "peft_config"):
        raise ValueError("The model carries an adapter already. Load the base again, or train that adapter as it is.")
    if config.method == "full":
        return model.requires_grad_(True)

    import torch
    from peft import LoraConfig, get_peft_model

    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # a fraction is fine: it is only ever divided by r
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(config.seed)  # A starts random (B at 0), so the seed decides where a run starts
    return get_peft_model(model, lora)


def refuse_repacked_weights(model: Any) -> None:
    """Raise ValueError for a 4-bit model that has answered on a CPU: no gradient would pass through its layers.

    On CPUs with bfloat16 instructions bitsandbytes 0.50 repacks a layer's bytes in place the first time it runs in
    evaluation mode. Training then goes on without an error, on wrong gradients.
    """
    for name, parameter in model.named_parameters():
        if getattr(getattr(parameter, "quant_state", None), "packing_format_for_cpu", False):
            raise ValueError(
                f"The 4-bit weight {name} was repacked for answering, and no gradient passes through it any more. "
                'Load the base afresh with load_base_model(quantize="nf4") and train before you generate.'
            )


def save_adapter(model: Any, folder: Path | str) -> Path:
    """Write the adapter (for "full": the model) to a folder that `load_adapter` and any peft user can read."""
    folder = Path(folder)
    model.save_pretrained(folder)
    return folder


def load_adapter(base_model: Any, folder: Path | str) -> Any:
    """The base with a saved adapter on it, for evaluation."""
    from peft import PeftModel

    if not (Path(folder) / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no adapter_config.json. Give the folder that save_adapter wrote.")
    return PeftModel.from_pretrained(base_model, folder)


def merge_checked_adapter(base_model: Any, adapter: Adapter) -> Any:
    """The base with an adapter that came from somebody else merged into its weights, by a configuration made here.

    peft reads neither file: the settings and tensors are those that `grader.adapters` has checked. Raises
    AdapterRefusedError when a merged weight is not finite. `base_model` is changed.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    from grader.adapters.folder import AdapterRefusedError

    settings = adapter.settings
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # as in add_adapter
        target_modules=list(settings.layers),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base_model, lora)
    loaded: Any = set_peft_model_state_dict(model, dict(adapter.tensors))
    if left := [*loaded.unexpected_keys, *(name for name in loaded.missing_keys if "lora_" in name)]:
        raise RuntimeError(f"peft puts {len(left)} tensors of a checked adapter elsewhere, as {left[0]}")
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise AdapterRefusedError(
            f"a weight is not finite once the adapter is added to it ({error}); its values are too large: lower "
            "lora_alpha or the learning rate and train again"
        ) from error


def merge_adapter(model: Any) -> Any:
    """The plain transformers model with the adapter added into its weights: as quick as the base, in the base's dtype.

    On bf16 weights the sum is rounded to bf16, on NF4 weights to NF4 again; merge into float32 for equal outputs.
    """
    return model.merge_and_unload()
