"""Vision-language classes of transformers, tiny and with random numbers, and inputs with images already encoded."""

import functools
import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from prune_hosts import DEPTH, EOS, IMAGE, PAD, VIDEO
from transformers.modeling_outputs import BaseModelOutputWithPooling, MoeCausalLMOutputWithPast

# What any configuration is made of is set to these, wherever it has something of the name.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "out_hidden_size", "projection_dim", "aligner_projection_size"), 32),
    **dict.fromkeys(("mm_hidden_size", "d_model", "output_dim", "encoder_ffn_dim"), 32),
    **dict.fromkeys(("num_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_hidden_layers", "depth", "num_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("moe_num_shared_experts", "n_shared_experts", "first_k_dense_replace", "encoder_layers"), 1),
    **{"encoder_attention_heads": 2, "intermediate_size": 48, "moe_intermediate_size": 16, "head_dim": 8},
    **dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 32),
    **{"vocab_size": 64, "max_position_embeddings": 512, "image_size": 16, "patch_size": 4, "initializer_range": 0.2},
    **{"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS, "audio_token_id": 58, "audio_token_index": 58},
    **{"image_token_id": IMAGE, "image_token_index": IMAGE, "video_token_id": VIDEO, "video_token_index": VIDEO},
}
TOKENS = 12  # of an image
VARIES = {  # from layer to layer
    "Gemma4TextConfig": ("head_dim", "num_key_value_heads", "num_hidden_layers"),
    "Gemma4UnifiedTextConfig": ("head_dim", "num_key_value_heads", "num_hidden_layers"),
    "EmbeddingGemma2TextConfig": ("head_dim", "num_key_value_heads", "num_hidden_layers"),
    "Step3p7TextConfig": ("num_attention_heads", "num_hidden_layers"),
}


@dataclass(frozen=True)
class Host:
    """A class of transformers.

    Attributes:
        name: of the class.
        changes: to its configuration, by dotted names.
        text: what its text configuration is made with.
        stacked: whether its encoder gives one tensor, not a list of images.
        refused: a part of the message where it cannot be pruned.
        variant: what tells it apart from another of its class.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    stacked: bool = False
    refused: str = ""
    variant: str = ""


SQUARE = {"vision_config.image_size": [16, 16], "vision_config.patch_size": [4, 4]}
WINDOW = {"text_config.sliding_window": 9}  # of which tests have several
KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
LAYERS = {"text_config.layer_types": (KINDS * 2)[:DEPTH]}
CAPPED = {"text_config.attn_logit_softcapping": 0.1}  # which tells in logits so small
BOTH_WAYS = {"use_bidirectional_attention": "vision"}
GEMMA4 = {"num_hidden_layers": DEPTH, "layer_types": [*KINDS[:3], KINDS[0], KINDS[2]]}
GEMMA4 |= {"num_key_value_heads": 2, "head_dim": 8}
GEMMA4 |= {"global_head_dim": 16, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 64}
GEMMA3N = GEMMA4 | {"num_kv_shared_layers": 0, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * DEPTH}
GEMMA3N = {name: value for name, value in GEMMA3N.items() if name != "global_head_dim"}
QWEN_WINDOW = WINDOW | LAYERS | {"text_config.use_sliding_window": True}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MROPE = {"text_config.rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}}
HALF_MROPE = {"text_config.rope_parameters": ROPE | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}}
STEP = {"num_hidden_layers": DEPTH, "layer_types": LAYERS["text_config.layer_types"], "head_dim": 8}
STEP |= {"num_attention_heads": 4, "num_sliding_attention_heads": 6, "share_expert_dim": 16}
STEP |= {"partial_rotary_factors": [0.5 if kind == "full_attention" else 1.0 for kind in STEP["layer_types"]]}
STEP |= {"mlp_layer_types": ["dense", "sparse", "sparse", "dense", "sparse"]}
ERNIE = {"text_config.rope_parameters": ROPE | {"mrope_section": [1, 1, 2]}}
SPARSE = {"num_hidden_layers": DEPTH, "layer_types": ["full_attention"] + ["minimax_m3_sparse"] * (DEPTH - 1)}
CODES = MROPE | {"vq_config.latent_channels": 32, "vq_config.num_embeddings": 50, "text_config.vision_vocab_size": 64}
CODES |= {"image_start_token_id": 57, "image_end_token_id": 56}
OMNI = MROPE | {"vision_start_token_id": 57, "vision_end_token_id": 56}
HOSTS = {
    host.name.removesuffix("ForConditionalGeneration") + host.variant: host
    for host in (
        Host("LlavaForConditionalGeneration"),
        Host("LlavaNextForConditionalGeneration"),
        Host("LlavaNextVideoForConditionalGeneration"),
        Host("LlavaOnevisionForConditionalGeneration"),
        Host("VipLlavaForConditionalGeneration", stacked=True),
        Host("VideoLlavaForConditionalGeneration", stacked=True),
        Host("InternVLForConditionalGeneration", SQUARE, stacked=True),
        Host("Mistral3ForConditionalGeneration"),
        Host("Mistral3ForConditionalGeneration", WINDOW, variant=", windows"),
        Host("Idefics2ForConditionalGeneration", WINDOW),
        Host("Idefics3ForConditionalGeneration"),
        Host("SmolVLMForConditionalGeneration"),
        Host("Ovis2ForConditionalGeneration", stacked=True),
        Host("DeepseekVLForConditionalGeneration", stacked=True),
        Host("Qwen2VLForConditionalGeneration", MROPE),
        Host("Qwen2_5_VLForConditionalGeneration", MROPE),
        Host("Qwen2_5_VLForConditionalGeneration", MROPE | QWEN_WINDOW, variant=", windows"),
        Host("Qwen2_5OmniThinkerForConditionalGeneration", OMNI),
        Host("Qwen3VLForConditionalGeneration"),
        Host("Qwen3VLMoeForConditionalGeneration"),
        Host("Glm4vForConditionalGeneration", MROPE),
        Host("Glm4vMoeForConditionalGeneration", HALF_MROPE),
        Host("Glm46VForConditionalGeneration", MROPE),
        Host("GlmOcrForConditionalGeneration", MROPE),
        Host("GlmImageForConditionalGeneration", CODES),
        Host("LightOnOcrForConditionalGeneration"),
        Host("AriaForConditionalGeneration", stacked=True),
        Host("VideoLlama3ForConditionalGeneration"),
        Host("PaddleOCRVLForConditionalGeneration", MROPE),
        Host("FastVlmForConditionalGeneration", stacked=True),
        Host("GotOcr2ForConditionalGeneration", stacked=True),
        Host("QianfanOCRForConditionalGeneration", SQUARE, stacked=True),
        Host("DeepseekVLHybridForConditionalGeneration", stacked=True),
        Host("HyperCLOVAXVisionV2ForConditionalGeneration"),
        Host("JanusForConditionalGeneration", stacked=True),
        Host("Qwen3OmniMoeThinkerForConditionalGeneration", OMNI),
        Host("Cosmos3OmniForConditionalGeneration"),
        Host("Gemma3ForConditionalGeneration", WINDOW | LAYERS, stacked=True),
        Host("PaliGemmaForConditionalGeneration", stacked=True),
        Host(
            "PaliGemmaForConditionalGeneration", WINDOW | CAPPED, {"model_type": "gemma2"}, stacked=True, variant=" 2"
        ),
        Host("Gemma4ForConditionalGeneration", WINDOW, text=GEMMA4),
        Host("Gemma4ForConditionalGeneration", WINDOW, text=GEMMA4 | BOTH_WAYS, variant=", both ways"),
        Host("Llama4ForConditionalGeneration", {"text_config.attention_chunk_size": 9}, stacked=True),
        Host("Molmo2ForConditionalGeneration", {"image_patch_id": IMAGE}),
        Host("Molmo2ForConditionalGeneration", {"image_patch_id": IMAGE}, {"qk_norm_type": "olmo"}, variant=", OLMo"),
        Host("Cosmos3EdgeForConditionalGeneration"),
        Host("AyaVisionForConditionalGeneration", WINDOW | LAYERS, stacked=True),
        Host("Cohere2VisionForConditionalGeneration", WINDOW | LAYERS, stacked=True),
        Host("GraniteDoclingForConditionalGeneration", {"text_config.attention_multiplier": 0.4}),
        Host("LlavaForConditionalGeneration", WINDOW, {"model_type": "gpt_oss"}, variant=", GPT-OSS"),
        Host("LlavaForConditionalGeneration", WINDOW | LAYERS, {"model_type": "afmoe"}, variant=", AFMoE"),
        Host("LlavaForConditionalGeneration", WINDOW, {"model_type": "exaone_moe"}, variant=", EXAONE MoE"),
        Host("LlavaForConditionalGeneration", text={"model_type": "stablelm"}, variant=", StableLM"),
        Host("Mistral3ForConditionalGeneration", text={"model_type": "ministral3"}, variant=", Ministral 3"),
        Host("Ernie4_5_VLMoeForConditionalGeneration", ERNIE),
        Host("Gemma4UnifiedForConditionalGeneration", WINDOW, text=GEMMA4),
        Host("Step3p7ForConditionalGeneration", WINDOW, STEP),
        Host(
            "Gemma4ForConditionalGeneration",
            text=GEMMA4 | {"num_kv_shared_layers": 2},
            variant=", shared keys",
            refused="without `k_proj`",
        ),
        Host("MuseGlimmerForConditionalGeneration", refused="in the place of qk_norm"),
        Host("Gemma3nForConditionalGeneration", text=GEMMA3N, stacked=True, refused="several states of each token"),
        Host("Blip2ForConditionalGeneration", refused="it is not supported"),
        Host("InstructBlipForConditionalGeneration", refused="it is not supported"),
        Host("Qwen3_5ForConditionalGeneration", refused="without `self_attn`"),
        Host("Kimi_K25ForConditionalGeneration", refused="without `k_proj`"),
        Host("Lfm2VlForConditionalGeneration", refused="without `input_layernorm`"),
        Host("IdeficsForVisionText2Text", refused="reads images by cross-attention"),
        Host("T5Gemma2ForConditionalGeneration", refused="is an encoder with a decoder"),
        Host("Mistral4ForCausalLM", refused="it is not a vision-language model"),
        Host("HunYuanVLForConditionalGeneration", refused="q_norm and k_norm in the place of"),
        Host("Exaone4_5_ForConditionalGeneration", refused="without `input_layernorm`"),
        Host("MllamaForConditionalGeneration", refused="reads images by cross-attention"),
        Host("MiniMaxM3SparseForConditionalGeneration", text=SPARSE, refused="has layers of minimax_m3_sparse"),
        Host("Qwen2_5OmniForConditionalGeneration", refused="has a second decoder, `talker.model`"),
        Host("ColPaliForRetrieval", refused="by an embedding of every token"),
        Host("ColQwen2ForRetrieval", refused="by an embedding of every token"),
        Host("EmbeddingGemma2Model", refused="reads everything in both directions"),
        Host("UltraVBertModel", refused="reads everything in both directions"),
        Host(
            "LlavaForConditionalGeneration",
            {},
            {"model_type": "nanochat"},
            variant=", NanoChat",
            refused="`norms of each head`",
        ),
        Host(
            "LlavaForConditionalGeneration", {}, {"model_type": "doge"}, variant=", Doge", refused="a mask of positions"
        ),
        Host("PI0ForConditionalGeneration", refused="has a second decoder, `model.dit`"),
    )
}


def shrink(config: Any, text: bool = False) -> Any:
    """`config` with everything in it small."""
    for name, value in SMALL.items():
        if text and name in VARIES.get(type(config).__name__, ()):
            continue
        if hasattr(config, name) and not isinstance(getattr(config, name), (dict, list)):
            setattr(config, name, value)
    if text and config.num_hidden_layers != DEPTH:
        config.num_hidden_layers = DEPTH
    for name in ("layer_types", "mlp_layer_types"):
        if kinds := getattr(config, name, None):
            setattr(config, name, (list(kinds) * DEPTH)[: config.num_hidden_layers])
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        rope["mrope_section"] = [2, 1, 1]
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            shrink(part, name == "text_config")
    return config


@functools.cache
def build(name: str) -> Any:
    """The model of a host in eval mode with weights from a fixed seed."""
    host = HOSTS[name]
    model_class = getattr(transformers, host.name)
    config = shrink(model_class.config_class(**({"text_config": host.text} if host.text else {})))
    for path, value in host.changes.items():
        *parts, last = path.split(".")
        setattr(functools.reduce(getattr, parts, config), last, value)
    if name == "Llama4" and not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
        MoeCausalLMOutputWithPast.image_outputs = None  # transformers 5.24 reads it, so that no call of its own returns
    torch.manual_seed(0)
    model = model_class(config).eval()
    if model.can_generate():
        model.generation_config.suppress_tokens = [IMAGE, VIDEO, EOS, 58]
    return model


def stacked(model: Any) -> bool:
    """`Host.stacked` of a model."""
    return any(host.stacked for host in HOSTS.values() if host.name == type(model).__name__)


def row(images: int, seed: int) -> dict[str, Any]:
    """Ids of a row with text of a length of its own, and the features of its images."""
    generator = torch.Generator().manual_seed(seed)
    ids = [1]
    for _ in range(images):
        ids += torch.randint(2, 50, (2,), generator=generator).tolist() + [IMAGE] * TOKENS
    ids += torch.randint(2, 50, (4 + seed % 5,), generator=generator).tolist()
    return {"ids": ids, "features": [torch.randn(4, TOKENS, 32, generator=generator) for _ in range(images)]}


def collate(model: Any, rows: list[dict[str, Any]], kind: str = "image") -> dict[str, Any]:
    """A batch of rows, padded on the left. `generate` changes the features, so each call wants its own batch.

    Args:
        kind: "image" or "video", which has 3 frames.
    """
    length = max(len(r["ids"]) for r in rows)
    ids = torch.tensor([[PAD] * (length - len(r["ids"])) + r["ids"] for r in rows])
    if kind == "video":
        ids = torch.where(ids == IMAGE, VIDEO, ids)
    mask = torch.tensor([[0] * (length - len(r["ids"])) + [1] * len(r["ids"]) for r in rows])
    features = [f for r in rows for f in r["features"]]
    given = [f[0].clone() for f in features]
    apart = not stacked(model) and (kind == "image" or model.config.model_type != "llava_onevision")
    image = BaseModelOutputWithPooling(pooler_output=given if apart else torch.stack(given))
    if kind == "video" and model.config.model_type == "video_llava":  # one by one
        image.pooler_output = image.pooler_output.view(-1, TOKENS // 3, 32)
    if model.config.model_type == "glm_image":  # of channels first, which become codes
        image.pooler_output = [f.T.reshape(32, 3, TOKENS // 3) for f in given]
    image.last_hidden_state = image.pooler_output  # which Llama 4 reads
    image.visual_indicator_features = torch.zeros(5, 32)  # Ovis2's, of tokens that are not used here
    image.deepstack_features = [[f[n].clone() for f in features] for n in (1, 2, 3)]
    image.router_logits = None  # GraniteDocling's
    image.frames = [3] * len(features)  # of a video
    types = {}  # of a model that reads some tokens in both directions: images of Gemma 3, the prompt of PaliGemma
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        types["token_type_ids"] = (
            torch.zeros_like(ids) if "paligemma" in model.config.model_type else (ids == IMAGE).int()
        )
    if "moe_mm_token_type_ids" in inspect.signature(model.forward).parameters:  # of Ernie 4.5's experts
        types["moe_mm_token_type_ids"] = (ids == IMAGE).int()
    if model.config.model_type in ("gemma4", "gemma4_unified", "molmo2"):
        types["mm_token_type_ids"] = (ids == IMAGE).int()
    return {"input_ids": ids, "attention_mask": mask, "mm_encoder_outputs": {kind: image}} | types
