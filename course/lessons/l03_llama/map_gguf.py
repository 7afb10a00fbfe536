"""From a GGUF file's tensors to a Llama's state dict: names, the shared head, and llama.cpp's order of rows.

GGUF is llama.cpp's file format, and the course's base model comes in it. One worked number: SmolLM2-135M's file has 272
tensors, 9 for each of 30 layers plus the embedding and the last norm; the model has one name more, for the head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from course.lessons.l03_llama.llama_sizes import LlamaSizes
from course.lessons.l03_llama.small_models import random_sizes, random_weights, transformers_config
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-map-gguf",
    title="Map a file's tensors to your model",
    points=3,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("transformer", "quantisation"),
    hints=(
        "A dictionary for the twelve names without their layer numbers, and one regular expression (or a split at the "
        "dots) for the layer number.",
        "For the rows: within one head the file has pair 0's two rows, then pair 1's two rows; you want the first row "
        "of every pair, then the second row of every pair.",
        "View one head's rows as a table of (pairs, 2). What you want is that table read column by column: swap the "
        "two axes and flatten. k has kv_heads heads.",
    ),
    rtol=0.0,
    atol=0.0,
    forbidden=("transformers", "gguf"),
    library_note="transformers does this in modeling_gguf_pytorch_utils (LlamaTensorProcessor undoes the row order), "
    "and the same permutation stands in its converter for Meta's original files, which pair neighbours too.",
    interview="A checkpoint loads without an error and the model writes nonsense. Where do you look?",
)

EMPTY: Mapping[str, Tensor] = {}
UNKNOWN = ("blk.0.attn_output.bias", "blk.0.attn_sinks.weight", "rope_factors_long.weight")  # in no Llama's table above


@exercise.reference
def map_gguf(tensors: dict[str, Tensor], heads: int, kv_heads: int) -> dict[str, Tensor]:
    """The state dict of a Llama, under transformers' names, from the tensors of a GGUF file.

    tensors: GGUF name -> tensor, any float dtype, already dequantised, in torch's order of axes (out, in):
        token_embd.weight         -> model.embed_tokens.weight
        blk.N.attn_norm.weight    -> model.layers.N.input_layernorm.weight
        blk.N.attn_{q,k,v}.weight -> model.layers.N.self_attn.{q,k,v}_proj.weight
        blk.N.attn_output.weight  -> model.layers.N.self_attn.o_proj.weight
        blk.N.ffn_norm.weight     -> model.layers.N.post_attention_layernorm.weight
        blk.N.ffn_{gate,up,down}.weight -> model.layers.N.mlp.{gate,up,down}_proj.weight
        output_norm.weight        -> model.norm.weight
        output.weight             -> lm_head.weight
    heads, kv_heads: number of query heads, and of key and value heads.

    The head: a file without output.weight shares the embedding. Then lm_head.weight is the very tensor that
    model.embed_tokens.weight is, not a copy.
    Row order: in attn_q and attn_k (only there) each head's rows are stored in neighbouring pairs: first[0], second[0],
    first[1], second[1], ... Your model wants halves: first[0], first[1], ..., second[0], second[1], ...
    Left out: rope_freqs.weight (this very name), which some files carry. Known are this name and those on the left of
    the table, N being a layer's number, and no others. Any other name raises ValueError with that name in its message.
    Dtypes and all other values stay as they are; nothing that is passed in is changed.
    """
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    inside = {
        "attn_norm": "input_layernorm",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
    }
    inside |= {f"attn_{letter}": f"self_attn.{letter}_proj" for letter in "qkv"}
    inside |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    mapped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "rope_freqs.weight":
            continue
        found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
        layer, part = found.groups() if found else (None, "")
        names = inside if layer else whole
        if part not in names:
            raise ValueError(f"{name} is no tensor of a Llama")
        if part in ("attn_q", "attn_k"):
            count = heads if part == "attn_q" else kv_heads
            pairs = tensor.reshape(count, -1, 2, tensor.shape[1])  # (heads, pairs, 2, in)
            tensor = pairs.transpose(1, 2).reshape(tensor.shape)
        prefix = f"model.layers.{layer}." if layer else ""
        mapped[f"{prefix}{names[part]}.weight"] = tensor
    mapped.setdefault("lm_head.weight", mapped["model.embed_tokens.weight"])
    return mapped


@exercise.alternative
def by_index_lists(tensors: dict[str, Tensor], heads: int, kv_heads: int) -> dict[str, Tensor]:
    def row_order(rows: int, count: int) -> list[int]:
        size = rows // count
        return [h * size + 2 * pair + side for h in range(count) for side in (0, 1) for pair in range(size // 2)]

    result = {}
    inside = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
    outside = {
        "token_embd.weight": "model.embed_tokens",
        "output_norm.weight": "model.norm",
        "output.weight": "lm_head",
    }
    for name in tensors:
        words = name.split(".")
        if name in outside:
            result[outside[name] + ".weight"] = tensors[name]
        elif words[0] == "blk" and len(words) == 4 and words[3] == "weight":
            block, _, kind = words[2].partition("_")
            if words[2] in inside:
                new = inside[words[2]]
            elif (block, kind) in {("attn", "q"), ("attn", "k"), ("attn", "v")}:
                new = f"self_attn.{kind}_proj"
            elif block == "ffn" and kind in ("gate", "up", "down"):
                new = f"mlp.{kind}_proj"
            else:
                raise ValueError("unknown: " + name)
            value = tensors[name]
            if words[2] in ("attn_q", "attn_k"):
                value = value[row_order(len(value), {"q": heads, "k": kv_heads}[kind])]
            result[f"model.layers.{words[1]}.{new}.weight"] = value
        elif name != "rope_freqs.weight":
            raise ValueError("unknown: " + name)
    if "lm_head.weight" not in result:
        result["lm_head.weight"] = result["model.embed_tokens.weight"]
    return result


def map_wrongly(tensors: dict[str, Tensor], heads: int, kv_heads: int, mistake: str) -> dict[str, Tensor]:
    """The shared skeleton of the wrong answers below."""
    kinds = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
    kinds |= {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
    kinds |= {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    ends = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    if mistake == "gate and up":
        kinds["ffn_gate"], kinds["ffn_up"] = kinds["ffn_up"], kinds["ffn_gate"]
    if mistake == "norms":
        kinds["attn_norm"], kinds["ffn_norm"] = kinds["ffn_norm"], kinds["attn_norm"]
    if mistake == "q and k":
        kinds["attn_q"], kinds["attn_k"] = kinds["attn_k"], kinds["attn_q"]
    orders = {"no order": (), "values too": ("attn_q", "attn_k", "attn_v"), "keys in pairs": ("attn_q",)}
    turned = orders.get(mistake, ("attn_q", "attn_k"))
    result = {}
    for name, value in tensors.items():
        kind, layer = name.removesuffix(".weight").split(".")[-1], name.split(".")[1]
        if mistake == "suffix ignored":
            kind = name.split(".")[-2]
        if mistake == "replaced inside" and kind == "attn_output":
            result[f"model.layers.{layer}.attn_lm_head.weight"] = value
            continue
        if mistake == "one digit" and name[:4] == "blk." and len(layer) > 1:
            raise ValueError(f"do not know {name}")
        if mistake == "float32":
            value = value.float()
        if mistake == "any rope" and "rope" in name:
            continue
        if name == "rope_freqs.weight" and mistake != "frequencies refused":
            if mistake == "frequencies kept":
                result[name] = value
            continue
        if kind not in kinds | ends and mistake != "silent":
            looked_up = mistake == "key error" or (mistake == "key error inside" and name[:4] + name[-2:] == "blk.ht")
            raise (KeyError if looked_up else ValueError)(f"do not know {name}")
        if kind in turned:
            count = kv_heads if kind != "attn_q" and mistake != "query heads for keys" else heads
            size = len(value) // (1 if mistake == "heads ignored" else count)
            if mistake == "columns":
                columns = value.T.reshape(count, -1, 2, len(value)).transpose(1, 2)
                value = columns.reshape(value.T.shape).T.contiguous()
            elif mistake == "other way":
                value = value.reshape(-1, 2, size // 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
            else:
                value = value.reshape(-1, size // 2, 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
        if mistake == "transposed" and kind in kinds and value.dim() == 2:
            value = value.T
        if kind in kinds:
            result[f"model.layers.{layer}.{kinds[kind]}.weight"] = value
        elif kind in ends:
            result[f"{ends[kind]}.weight"] = value
    if mistake != "no head":
        embedding = result["model.embed_tokens.weight"]
        result["lm_head.weight"] = result.get("lm_head.weight", embedding.clone() if mistake == "copy" else embedding)
    if mistake == "always tied":
        result["lm_head.weight"] = result["model.embed_tokens.weight"]
    return result


@exercise.misconception(
    hint="q and k have the right names and the wrong order of rows. Everything loads, and the rotary embedding then "
    "turns pairs that do not belong together."
)
def rows_left_in_pairs(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "no order")


@exercise.misconception(
    hint="You reorder the rows in the direction that writes such a file: from halves to pairs. Here it goes from pairs "
    "to halves. Try it on one head of six rows with the numbers 0 to 5."
)
def reordered_the_other_way(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "other way")


@exercise.misconception(
    hint="The keys' rows are cut into as many heads as there are queries. k has fewer heads of the same size."
)
def query_heads_for_keys(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "query heads for keys")


@exercise.misconception(
    hint="The queries' rows are in order, the keys' are still in pairs. Both are turned by the rotary embedding, so "
    "the file has both in pairs."
)
def keys_left_in_pairs(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "keys in pairs")


@exercise.misconception(
    hint="You reorder the columns of q and k. A row makes one number of a head, and it is these numbers that are "
    "paired; the columns belong to the stream that goes in."
)
def columns_reordered(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "columns")


@exercise.misconception(
    hint="q and k have changed places. Their numbers of rows differ (heads and kv_heads), so a strict load would "
    "refuse them; with as many key heads as query heads nothing would."
)
def queries_and_keys_swapped(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "q and k")


@exercise.misconception(
    hint="Layer 10 and those after it are not understood: you read one digit of the layer's number. Take all that "
    "stands between the two dots."
)
def layer_number_of_one_digit(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "one digit")


@exercise.misconception(
    hint="A float16 file becomes a float32 state dict, which takes twice the memory. Renaming and reordering need no "
    "other dtype: leave it."
)
def converted_to_float32(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "float32")


@exercise.misconception(
    hint="Every name with 'rope' in it is left out. Files for long contexts carry rope_factors_long.weight, and a "
    "model that ignores it is wrong on long texts: only the one name in the task may go, the others raise ValueError."
)
def every_rope_left_out(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "any rope")


@exercise.misconception(
    hint="A name of the usual form blk.N.something.weight, whose something you do not know, ends in a KeyError of your "
    "dictionary. That looks like a bug of yours: ask first, and raise ValueError with the whole name."
)
def key_error_for_a_part(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "key error inside")


@exercise.misconception(
    hint="You reorder across all rows at once. The order is one of rows within each head; heads stay where they are."
)
def heads_ignored(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "heads ignored")


@exercise.misconception(
    hint="The values' rows are reordered too. Values are never turned by the rotary embedding, so their rows lie as "
    "they should."
)
def values_reordered_too(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "values too")


@exercise.misconception(
    hint="gate and up are swapped. Both have the same shape, so even a strict load is content; only the outputs are "
    "wrong."
)
def gate_and_up_swapped(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "gate and up")


@exercise.misconception(
    hint="The two norms of a layer are swapped: attn_norm comes before attention, ffn_norm after it and before the "
    "feed-forward layer."
)
def norms_swapped(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "norms")


@exercise.misconception(
    hint="When the file has no output.weight, your state dict has no lm_head.weight, and a strict load refuses it: the "
    "head is the embedding then."
)
def head_left_out(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "no head")


@exercise.misconception(
    hint="The shared head is a copy of the embedding. Copies drift apart as soon as something trains, and 28 million "
    "numbers take their memory twice."
)
def head_copied(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "copy")


@exercise.misconception(
    hint="You use the embedding as the head even where the file has a head of its own (output.weight)."
)
def head_always_tied(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "always tied")


@exercise.misconception(
    hint="A name that you do not know is dropped in silence. A bias, say, would then be missing for ever, and nobody "
    "would know: raise ValueError with the name."
)
def unknown_names_dropped(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "silent")


@exercise.misconception(
    hint="An unknown name ends in a KeyError of your dictionary. Whoever calls this cannot tell that from a bug in it: "
    "catch the case and raise ValueError with the tensor's name."
)
def left_to_a_key_error(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "key error")


@exercise.misconception(
    hint="A bias counts as the weight of its layer, and replaces it: you look at the middle of the name only. Its end "
    "belongs to it; a name that is not in the table raises ValueError."
)
def end_of_the_name_ignored(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "suffix ignored")


@exercise.misconception(
    hint="attn_output has become attn_lm_head: a chain of str.replace also finds 'output' inside other names. Take the "
    "name apart at its dots and look up whole parts."
)
def replaced_inside_names(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "replaced inside")


@exercise.misconception(
    hint="rope_freqs.weight is treated as an unknown name. Some files carry it, and a Llama computes its frequencies "
    "itself: leave it out."
)
def frequencies_refused(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "frequencies refused")


@exercise.misconception(
    hint="rope_freqs.weight is in your state dict. The model has no tensor of that name, so a strict load would refuse "
    "it."
)
def frequencies_kept(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "frequencies kept")


@exercise.misconception(
    hint="The layers' matrices are transposed. GGUF lists shapes the other way round, but these tensors are in torch's "
    "order already."
)
def matrices_transposed(tensors: Any, heads: int, kv_heads: int) -> Any:
    return map_wrongly(tensors, heads, kv_heads, "transposed")


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)

    def case(name: str, about: str, visible: bool = True, extra: str = "", half: bool = False, **fixed: Any) -> Case:
        sizes = random_sizes(random, **fixed)
        tensors = as_in_a_file(sizes, random_weights(sizes, random))
        if extra:
            tensors[extra] = torch.randn(sizes.head_dim // 2, generator=random)
        if half:
            tensors = {name: tensor.half() for name, tensor in tensors.items()}
        return Case(name, {"tensors": tensors, "heads": sizes.heads, "kv_heads": sizes.kv_heads}, about, visible)

    return [
        case("plain", "on a file of one layer without output.weight", layers=1, head_dim=8, kv_heads=3),
        case("own head", "when the file has a head of its own", tied=False, head_dim=6, kv_heads=2),
        case("frequencies", "when the file carries rope_freqs.weight", extra="rope_freqs.weight", layers=1),
        case("unknown name", "when a name is no Llama's", extra=UNKNOWN[0], layers=1),
        case("unknown part", "when a layer has a part that no Llama has", extra=UNKNOWN[1], layers=1),
        case("rope factors", "when another name has 'rope' in it", extra=UNKNOWN[2], layers=1),
        case("eleven layers", "with layer numbers of two digits", visible=False, layers=11, head_dim=4, hidden_size=12),
        case("float16", "in float16", visible=False, half=True, kv_heads=2, head_dim=8),
    ]


def as_in_a_file(sizes: LlamaSizes, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the names and the row order that llama.cpp's converter gives them."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    names: Any = get_tensor_name_map(MODEL_ARCH.LLAMA, sizes.layers)
    tensors = {}
    for name, weight in weights.items():
        if name == "lm_head.weight" and sizes.tied:
            continue
        for kind, count in (("q_proj", sizes.heads), ("k_proj", sizes.kv_heads)):
            if kind in name:
                weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        tensors[f"{names.get_name(name.removesuffix('.weight'))}.weight"] = weight
    return tensors


@exercise.probe
def probe(answer: Any, tensors: dict[str, Tensor], heads: int, kv_heads: int) -> dict[str, Any]:
    """Calls the answer and looks at what it made, and at whether the head is the embedding."""
    try:
        mapped = answer(tensors, heads, kv_heads)
    except ValueError as error:
        named = [name for name in tensors if name in UNKNOWN and name in str(error)]
        return {"how it ended": "it raised ValueError", "names in the error": named, "tensors": EMPTY, "head": ""}
    if not isinstance(mapped, dict):
        raise TypeError(f"map_gguf returned a {type(mapped).__name__}; return the state dict")
    head, embedding = mapped.get("lm_head.weight"), mapped.get("model.embed_tokens.weight")
    if head is None or embedding is None:
        told = "missing" if head is None else "there is no embedding"
    else:
        told = "the embedding itself" if head.data_ptr() == embedding.data_ptr() else "a tensor of its own"
    in_order = {name: mapped[name] for name in sorted(mapped)}
    return {"how it ended": "it returned", "names in the error": [], "tensors": in_order, "head": told}


@exercise.oracle
def oracle(tensors: dict[str, Tensor], heads: int, kv_heads: int) -> dict[str, Any]:
    """The names and the row order that transformers' own GGUF reader gives these tensors, in a LlamaForCausalLM."""
    from transformers import LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, get_gguf_hf_weights_map

    unknown = [name for name in tensors if name in UNKNOWN]  # transformers drops these in silence; we do not
    if unknown:
        return {"how it ended": "it raised ValueError", "names in the error": unknown, "tensors": EMPTY, "head": ""}
    vocabulary, hidden = tensors["token_embd.weight"].shape
    queries, inner = len(tensors["blk.0.attn_q.weight"]), len(tensors["blk.0.ffn_up.weight"])
    layers, tied = sum(name.endswith("attn_q.weight") for name in tensors), "output.weight" not in tensors
    sizes = LlamaSizes(vocabulary, hidden, inner, layers, heads, kv_heads, queries // heads, 1e5, 1e-5, tied)
    model: Any = LlamaForCausalLM(transformers_config(sizes))
    model.to(tensors["token_embd.weight"].dtype)
    processor = TENSOR_PROCESSORS["llama"](config={"num_attention_heads": heads, "num_key_value_heads": kv_heads})
    names = get_gguf_hf_weights_map(model, processor)
    arrays = {name: processor.process(weights=tensor.numpy(), name=name).weights for name, tensor in tensors.items()}
    read = {names[name]: torch.tensor(array) for name, array in arrays.items() if name in names}
    model.load_state_dict(read, strict=not tied)
    model.tie_weights()
    state = model.state_dict()
    head = "the embedding itself" if tied else "a tensor of its own"
    in_order = {name: state[name] for name in sorted(state)}
    return {"how it ended": "it returned", "names in the error": [], "tensors": in_order, "head": head}
