"""An adapter on disk as peft writes it: two small files, so that any tool that reads peft reads yours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from course.lessons.l07_lora.small_models import (
    HIDDEN,
    INTERMEDIATE,
    adapt,
    adapt_with_peft,
    random_adapters,
    tiny_llama,
)
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l07-save-adapter",
    title="Save the adapter so that peft loads it",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("lora", "peft"),
    forbidden=("peft",),
    hints=(
        "Two files: one dictionary of tensors through safetensors.torch.save_file, one dictionary of settings "
        "through json.",
        "Only lora_A and lora_B belong in the tensor file. Take each one's name from model.named_modules(), and look "
        "at the example name in the docstring letter by letter.",
        "The loader rebuilds the layers from the settings alone: it needs to know their names, r, and the alpha you "
        "trained with, and it computes the scale itself.",
    ),
    library_note="peft writes the same two files plus a model card, and its config holds every LoraConfig field. "
    "Fields that are missing get LoraConfig's defaults when read, so a short file is enough.",
    interview="What exactly do you ship when you ship an adapter, and what must the receiver already have?",
)


@exercise.reference
def save_adapter(model: nn.Module, folder: str, base_model: str) -> None:
    """Write the LoRA layers of model into folder (created if it is missing) in peft's format.

    A LoRA layer is any module with attributes lora_A (r, in_features), lora_B (out_features, r), r and alpha.
    base_model: name or path of the model that the adapter belongs on.

    adapter_model.safetensors: for a layer named model.layers.0.self_attn.q_proj two tensors, named
        base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight  and the same with lora_B;  nothing else.
    adapter_config.json: an object with
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model,
        "r": the rank, "lora_alpha": alpha, "target_modules": the full names of the LoRA layers, as a list.

    All LoRA layers of one model share r and alpha. The model is left as it is.
    Source: peft, docs/source/developer_guides/checkpoint.md.
    """
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    tensors = {}
    for name, layer in layers.items():
        for matrix in ("lora_A", "lora_B"):
            tensors[f"base_model.model.{name}.{matrix}.weight"] = getattr(layer, matrix).detach().contiguous()
    any_layer = next(iter(layers.values()))
    kind = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model}
    settings = kind | {"r": any_layer.r, "lora_alpha": any_layer.alpha, "target_modules": list(layers)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder, "adapter_model.safetensors"))
    Path(folder, "adapter_config.json").write_text(json.dumps(settings, indent=2))


@exercise.alternative
def renamed_state_dict(model: Any, folder: str, base_model: str) -> None:
    import os

    os.makedirs(folder, exist_ok=True)
    state = {key: value for key, value in model.state_dict().items() if key.split(".")[-1].startswith("lora_")}
    save_file({f"base_model.model.{key}.weight": value.clone() for key, value in state.items()},
              os.path.join(folder, "adapter_model.safetensors"))  # fmt: skip
    names = sorted({key.rsplit(".", 1)[0] for key in state})
    with open(os.path.join(folder, "adapter_config.json"), "w") as file:
        json.dump(dict(peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path=base_model,
                       r=model.get_submodule(names[0]).lora_A.size(0), lora_alpha=model.get_submodule(names[0]).alpha,
                       target_modules=names), file)  # fmt: skip


def write(model: nn.Module, folder: str, base_model: str, key: str = "base_model.model.{}.{}.weight", **settings: Any):
    """The shared skeleton of the wrong answers below: keys from a pattern, settings overridden."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    tensors = {
        key.format(n, m): getattr(layer, m).detach() for n, layer in layers.items() for m in ("lora_A", "lora_B")
    }
    one = next(iter(layers.values()))
    shared = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model}
    own = {"r": one.r, "lora_alpha": one.alpha, "target_modules": list(layers)}
    written = {name: value for name, value in (shared | own | settings).items() if value is not None}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / "adapter_model.safetensors")
    (Path(folder) / "adapter_config.json").write_text(json.dumps(written))


@exercise.misconception(
    hint="Your tensor names lack the front part that peft's own wrapper adds. peft then finds none of its weights, "
    "says so only in a warning, and runs with an adapter of zeros."
)
def prefix_forgotten(model: nn.Module, folder: str, base_model: str) -> None:
    write(model, folder, base_model, key="{}.{}.weight")


@exercise.misconception(
    hint="Your tensor names begin with 'base_model.' once and go on with the layer's own name. peft wraps twice, so "
    "two words come before it, and the layer's name, which begins with 'model.' too, follows whole."
)
def half_a_prefix(model: nn.Module, folder: str, base_model: str) -> None:
    write(model, folder, base_model, key="base_model.{}.{}.weight")


@exercise.misconception(
    hint="Your tensor names are those of model.state_dict(), as they are. peft's files have two words more in front of "
    "the layer's name and one more at the end: compare with the example letter by letter."
)
def names_of_the_state_dict(model: nn.Module, folder: str, base_model: str) -> None:
    write(model, folder, base_model, key="{}.{}")


@exercise.misconception(
    hint="Your names end where your parameters end. In peft A and B are little linear layers, so their tensors have "
    "one more word at the end."
)
def ending_forgotten(model: nn.Module, folder: str, base_model: str) -> None:
    write(model, folder, base_model, key="base_model.model.{}.{}")


@exercise.misconception(
    hint="Your names hold the adapter's name ('default'), as model.state_dict() of a PeftModel does. Files leave it "
    "out: the receiver chooses the name when loading."
)
def adapter_name_kept(model: nn.Module, folder: str, base_model: str) -> None:
    write(model, folder, base_model, key="base_model.model.{}.{}.default.weight")


@exercise.misconception(
    hint="lora_alpha holds the scale, alpha / r. The loader divides by r once more, and the update comes out r times "
    "too small."
)
def scale_saved_as_alpha(model: nn.Module, folder: str, base_model: str) -> None:
    scale = next(module.scale for module in model.modules() if hasattr(module, "lora_A"))
    write(model, folder, base_model, lora_alpha=scale)


@exercise.misconception(
    hint="alpha is missing from your settings, so the loader takes its default of 8, whatever you trained with."
)
def alpha_forgotten(model: nn.Module, folder: str, base_model: str) -> None:
    write(model, folder, base_model, lora_alpha=None)


@exercise.misconception(
    hint="target_modules holds only the last words, such as 'q_proj'. When you adapted some layers and not others, the "
    "loader builds adapters in all layers of that name."
)
def targets_by_last_word(model: nn.Module, folder: str, base_model: str) -> None:
    words = {name.split(".")[-1] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    write(model, folder, base_model, target_modules=sorted(words))


@exercise.misconception(
    hint="The tensor file holds the frozen base weights too. An adapter ships only what was trained: megabytes, not "
    "the model."
)
def base_weights_saved_too(model: nn.Module, folder: str, base_model: str) -> None:
    write(model, folder, base_model)
    file = Path(folder) / "adapter_model.safetensors"
    bases = {f"base_model.model.{k}": v.clone() for k, v in model.state_dict().items() if ".base." in k}
    save_file(load_file(file) | bases, file)


Q, DOWN = (HIDDEN, HIDDEN), (HIDDEN, INTERMEDIATE)


@exercise.cases
def cases(seed: int) -> list[Case]:
    def case(
        name: str, about: str, shapes: dict[str, tuple[int, int]], r: int, alpha: float, visible: bool = True
    ) -> Case:
        adapters = random_adapters(seed, {f"model.layers.{layer}": shape for layer, shape in shapes.items()}, r)
        return Case(name, {"seed": seed, "adapters": adapters, "alpha": alpha}, about, visible)

    both = {"0.self_attn.q_proj": Q, "1.self_attn.q_proj": Q}
    return [
        case("every q_proj", "on a model with q_proj adapted in both layers", both, 4, 16.0),
        case("one layer of two", "when only the second layer is adapted", {"1.self_attn.q_proj": Q}, 4, 12.0),
        case(
            "two kinds", "when layers of different shapes are adapted", both | {"0.mlp.down_proj": DOWN}, 3, 6.0, False
        ),
        case("rank one", "with r = 1", {"0.mlp.down_proj": DOWN}, 1, 2.0, False),
    ]


@exercise.probe
def probe(
    answer: Callable[..., Any], seed: int, adapters: dict[str, tuple[Tensor, Tensor]], alpha: float
) -> dict[str, Any]:
    """Lets the answer write into a new folder, then lets peft load that folder onto a fresh base."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "adapters", "mine")
        answer(adapt(tiny_llama(seed), adapters, alpha), str(folder), "tiny")
        return read_back(folder, seed)


def read_back(folder: Path, seed: int) -> dict[str, Any]:
    from peft import PeftModel

    missing = [n for n in ("adapter_config.json", "adapter_model.safetensors") if not (folder / n).exists()]
    if missing:
        held = sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) if folder.exists() else []
        seen = f"it holds {', '.join(held) or 'nothing'}" if folder.exists() else "the folder was not made"
        raise FileNotFoundError(f"no {' and no '.join(missing)} in the folder given; {seen}")
    report: dict[str, Any] = {"tensors": dict(sorted(load_file(folder / "adapter_model.safetensors").items()))}
    try:
        model = PeftModel.from_pretrained(tiny_llama(seed), folder).eval()
    except Exception as error:  # whatever peft makes of the files is the finding
        raise ValueError(f"peft refuses the folder: {type(error).__name__}: {error}") from error
    config = model.peft_config["default"]
    names = ("r", "lora_alpha", "task_type", "base_model_name_or_path")
    tokens = torch.arange(10).reshape(2, 5)
    with torch.no_grad():
        logits = model(tokens).logits
    adapted = [n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "lora_A")]
    return report | {"config": {n: getattr(config, n) for n in names}, "adapted layers": adapted, "logits": logits}


@exercise.oracle
def oracle(seed: int, adapters: dict[str, tuple[Tensor, Tensor]], alpha: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        adapt_with_peft(tiny_llama(seed), adapters, alpha).save_pretrained(folder, save_embedding_layers=False)
        return read_back(Path(folder), seed)
