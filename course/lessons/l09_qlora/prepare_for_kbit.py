"""Making a 4-bit model trainable: freeze, small parameters to float32, checkpoint activations, let gradients in.

What `peft.prepare_model_for_kbit_training` does, by hand (peft/utils/other.py; Dettmers et al. 2023, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from course.lessons.l09_qlora.tiny_model import tiny_llama
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l09-prepare-for-kbit",
    title="Prepare a 4-bit model for training",
    points=4,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("qlora", "peft", "memory"),
    hints=(
        "Walk over `model.named_parameters()` twice in your mind: which change `requires_grad`, which change dtype?",
        "Only float16 and bfloat16 parameters become float32. The packed ones are uint8: leave their bytes alone.",
        "transformers has one method to switch gradient checkpointing on (look for `checkpointing` in dir(model); "
        "today's name begins with `activation`), and one to make the embedding's output require a gradient.",
    ),
    forbidden=("peft",),
    seconds=20.0,
    seconds_reason="importing transformers, peft and bitsandbytes cold takes 5 to 10 seconds",
    mutates=True,
    library_note="peft does the same, and also knows GPTQ, AQLM, HQQ, EETQ and torchao models, which must not be cast. "
    "(Today's transformers lets gradients in when you switch checkpointing on, for models whose main input is token "
    "ids; other models and older versions do not, so peft asks for both.) With a large vocabulary the float32 "
    "embedding can be a gigabyte or more, which is why some recipes skip the cast and keep only the norms in float32.",
    interview="Why must the embedding's output require a gradient when a frozen model is trained with checkpointing?",
)


@exercise.reference
def prepare_for_kbit(model: PreTrainedModel) -> PreTrainedModel:
    """Make a 4-bit transformers model ready for adapters, in place; returns the same model.

    1. No parameter requires a gradient any more.
    2. Every parameter in float16 or bfloat16 becomes float32, by replacing its `.data`: norms, embedding, head.
       Packed 4-bit weights (uint8) stay exactly as they are.
    3. Gradient checkpointing is switched on.
    4. The output of the input embedding requires a gradient, so that a gradient reaches the adapters through
       checkpointed layers whose own inputs would otherwise need none. Ask for it whether or not step 3 did it already
       (for some models it does).

    Equals peft.prepare_model_for_kbit_training(model).
    """
    for parameter in model.parameters():
        parameter.requires_grad = False
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    return model


@exercise.alternative
def by_module(model):
    model.requires_grad_(False)
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.float32)
    model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_(True))
    model.activation_checkpointing_enable()
    return model


def prepare(model, freeze=True, cast=True, checkpoint=True, let_in=True):
    """All steps, each of which can be left out, for the wrong answers below."""
    for name, parameter in model.named_parameters():
        if freeze:
            parameter.requires_grad = False
        if parameter.is_floating_point() and (cast is True or (cast == "norms" and "norm" in name)):
            parameter.data = parameter.data.float()
    if let_in:
        model.enable_input_require_grads()
    if checkpoint:
        model.activation_checkpointing_enable()
    return model


@exercise.misconception(
    hint="Norms and embeddings are still in 16 bits. In a frozen 4-bit model these few parameters are kept in float32 "
    "for stability."
)
def nothing_cast(model):
    return prepare(model, cast=False)


@exercise.misconception(
    hint="You cast the norms only. The embedding (and the head, which may share its weight) is 16-bit, too."
)
def norms_only(model):
    return prepare(model, cast="norms")


@exercise.misconception(
    hint="You cast everything, packed 4-bit weights included: their bytes are codes, not numbers. Look at the dtype "
    "before you cast."
)
def packed_bytes_cast(model):
    for parameter in model.parameters():
        parameter.requires_grad = False
        parameter.data = parameter.data.float()
    model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    return model


@exercise.misconception(
    hint="Some parameters still require a gradient. In QLoRA nothing of the base model is trained, neither norms nor "
    "embeddings."
)
def embeddings_still_trained(model):
    return prepare(model, freeze=False)


@exercise.misconception(
    hint="The head has come loose from the embedding: they shared one weight, and you gave each module a "
    "new parameter of "
    "its own. Change the parameter's `.data` and the sharing survives."
)
def head_untied(model):
    model.requires_grad_(False)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_floating_point():
                setattr(module, name, torch.nn.Parameter(parameter.float(), requires_grad=False))
    return prepare(model)


@exercise.misconception(
    hint="Gradient checkpointing is off, so every layer keeps all its activations until backward: the larger part of "
    "training memory once the weights are in 4 bits."
)
def no_checkpointing(model):
    return prepare(model, checkpoint=False)


@exercise.misconception(
    hint="The embedding's output needs no gradient for one of the models. Switching checkpointing on lets gradients in "
    "for some models only: ask for it yourself."
)
def gradients_not_let_in(model):
    return prepare(model, let_in=False)


@exercise.misconception(
    hint="You made the embedding's weight trainable. It is the embedding's OUTPUT that must require a gradient; the "
    "weight stays frozen, or the optimizer would train it."
)
def embedding_made_trainable(model):
    prepare(model, let_in=False).get_input_embeddings().weight.requires_grad = True
    return model


def describe(model, before: dict) -> dict:
    """What the preparation changed, as plain data."""
    embedded = model.get_input_embeddings()(torch.tensor([[1, 2, 3]]))
    return {
        "dtypes": {name: str(value.dtype) for name, value in model.named_parameters()},
        "trainable": [name for name, value in model.named_parameters() if value.requires_grad],
        "gradient_checkpointing": bool(model.is_activation_checkpointing),
        "embedding_output_requires_grad": bool(embedded.requires_grad),
        "head_shares_embedding": model.lm_head.weight is model.get_input_embeddings().weight,
        "values_unchanged": all(
            torch.equal(dict(model.named_parameters())[name].data.float(), value.float())
            for name, value in before.items()
        ),
    }


def prepared(answer, seed, dtype, layers, key_value_heads, start_trainable, main_input):
    model = tiny_llama(seed, four_bit=True, dtype=dtype, layers=layers, key_value_heads=key_value_heads)
    model.main_input_name = main_input  # transformers' checkpointing lets gradients in by itself for "input_ids" only
    if start_trainable:  # a norm was unfrozen by an earlier experiment
        model.model.norm.weight.requires_grad = True
    else:
        model.requires_grad_(False).get_input_embeddings().weight.requires_grad = True
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    returned = answer(model)
    if returned is None:
        raise TypeError("prepare_for_kbit returned None; return the model")
    # The model that was given is looked at: what was returned may be anything that says of itself what we ask.
    return {"returned_the_model_it_got": returned is model, **describe(model, before)}


@exercise.probe
def probe(answer, seed, dtype, layers, key_value_heads, start_trainable, main_input):
    """Prepare a tiny 4-bit Llama and describe it."""
    return prepared(answer, seed, dtype, layers, key_value_heads, start_trainable, main_input)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    def inputs(
        offset: int, dtype: str, layers: int, key_value_heads: int, start_trainable: bool, main_input: str = "input_ids"
    ) -> dict:
        return {
            "seed": seed + offset,
            "dtype": dtype,
            "layers": layers,
            "key_value_heads": key_value_heads,
            "start_trainable": start_trainable,
            "main_input": main_input,
        }

    yield Case("two_layers", inputs(0, "float16", 2, 2, True), "with a tiny 4-bit Llama in float16")
    yield Case("bfloat16", inputs(1, "bfloat16", 1, 4, True), "when the 16-bit parameters are bfloat16")
    yield Case(
        "other_main_input",
        inputs(4, "float16", 1, 2, True, "input_values"),
        "when switching checkpointing on does not let gradients in by itself",
    )
    yield Case("half_frozen", inputs(2, "float16", 1, 1, False), "when parts are frozen already", visible=False)
    yield Case("three_layers", inputs(3, "bfloat16", 3, 2, True), "with three layers", visible=False)


@exercise.oracle
def oracle(seed, dtype, layers, key_value_heads, start_trainable, main_input):
    from peft import prepare_model_for_kbit_training

    return prepared(prepare_model_for_kbit_training, seed, dtype, layers, key_value_heads, start_trainable, main_input)
