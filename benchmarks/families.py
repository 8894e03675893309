"""Tiny configs of every family that `architectures.py` tries. Only sizes are set; the rest is the class's default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


SIZE = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}
GROUPED = {**SIZE, "num_key_value_heads": 2}
EXPERTS = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
SPARSE = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1}


@dataclass(frozen=True)
class Family:
    """
    One architecture of transformers.

    Args:
        name (`str`): Name as its authors write it.
        config (`str`): Its config class in transformers.
        values (`dict`): Sizes of the tiny model; windows, dropout, layer types and so on are the class's defaults.
        encoder (`bool`): Whether its attention is bidirectional.
    """

    name: str
    config: str
    values: dict[str, Any] = field(default_factory=dict)
    encoder: bool = False


DECODERS = (
    Family("GPT-2", "GPT2Config", {"n_layer": 2, "n_head": 4, "n_embd": 64}),
    Family("GPT-J", "GPTJConfig", {"n_layer": 2, "n_head": 4, "n_embd": 64, "rotary_dim": 8}),
    Family("GPT-NeoX", "GPTNeoXConfig", SIZE),
    Family("StarCoder (GPT-BigCode)", "GPTBigCodeConfig", {"n_layer": 2, "n_head": 4, "n_embd": 64}),
    Family("BLOOM", "BloomConfig", {"n_layer": 2, "n_head": 4, "hidden_size": 64}),
    Family("MPT", "MptConfig", {"n_layers": 2, "n_heads": 4, "d_model": 64}),
    Family("OPT", "OPTConfig", {**SIZE, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    Family("Falcon", "FalconConfig", SIZE),
    Family("Llama", "LlamaConfig", GROUPED),
    Family("Mistral", "MistralConfig", GROUPED),
    Family("Mixtral", "MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    Family("Qwen2", "Qwen2Config", GROUPED),
    Family("Qwen2-MoE", "Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 32}),
    Family("Qwen3", "Qwen3Config", {**GROUPED, "head_dim": 16}),
    Family("Qwen3-MoE", "Qwen3MoeConfig", {**EXPERTS, "head_dim": 16}),
    Family(
        "Qwen3-Next",
        "Qwen3NextConfig",
        {
            **EXPERTS, "num_hidden_layers": 4, "head_dim": 16, "shared_expert_intermediate_size": 32,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        },
    ),
    Family("Gemma", "GemmaConfig", {**GROUPED, "head_dim": 16}),
    Family("Gemma 2", "Gemma2Config", {**GROUPED, "head_dim": 16}),
    Family("Gemma 3", "Gemma3TextConfig", {**GROUPED, "num_hidden_layers": 6, "head_dim": 16}),
    Family("Phi", "PhiConfig", SIZE),
    Family("Phi-3", "Phi3Config", GROUPED),
    Family("OLMo", "OlmoConfig", GROUPED),
    Family("OLMo 2", "Olmo2Config", GROUPED),
    Family("OLMo 3", "Olmo3Config", {**GROUPED, "num_hidden_layers": 4}),
    Family("StableLM", "StableLmConfig", GROUPED),
    Family("StarCoder2", "Starcoder2Config", GROUPED),
    Family("Cohere", "CohereConfig", GROUPED),
    Family("Cohere 2", "Cohere2Config", {**GROUPED, "num_hidden_layers": 4, "head_dim": 16}),
    Family("DeepSeek V2", "DeepseekV2Config", {**SIZE, **LATENT, **SPARSE, "num_key_value_heads": 4}),
    Family("DeepSeek V3", "DeepseekV3Config", {**SIZE, **LATENT, **SPARSE, "num_key_value_heads": 4, "first_k_dense_replace": 1}),
    Family("Granite", "GraniteConfig", GROUPED),
    Family("Granite MoE", "GraniteMoeConfig", {**GROUPED, "num_local_experts": 4}),
    Family("Mamba", "MambaConfig", {"num_hidden_layers": 2, "hidden_size": 64, "state_size": 16}),
    Family("Mamba 2", "Mamba2Config", {"num_hidden_layers": 2, "hidden_size": 64, "num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16}),
    Family("Jamba", "JambaConfig", {**GROUPED, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 16, "use_mamba_kernels": False}),
    Family("Bamba", "BambaConfig", {**GROUPED, **MAMBA, "attn_layer_indices": [1]}),
    Family("RecurrentGemma", "RecurrentGemmaConfig", {**GROUPED, "num_hidden_layers": 3, "lru_width": 64}),
    Family("GLM", "GlmConfig", {**GROUPED, "head_dim": 16}),
    Family("GLM-4", "Glm4Config", {**GROUPED, "head_dim": 16}),
    Family("Nemotron", "NemotronConfig", GROUPED),
    Family("Persimmon", "PersimmonConfig", SIZE),
    Family("DBRX", "DbrxConfig", {"n_layers": 2, "n_heads": 4, "d_model": 64, "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0}}),
    Family("gpt-oss", "GptOssConfig", {**GROUPED, "head_dim": 16, "num_local_experts": 4}),
    Family("SmolLM3", "SmolLM3Config", {**GROUPED, "num_hidden_layers": 4}),
    Family("EXAONE 4", "Exaone4Config", {**GROUPED, "num_hidden_layers": 4}),
)  # fmt: skip
ENCODERS = (
    Family("BERT", "BertConfig", SIZE, True),
    Family("RoBERTa", "RobertaConfig", SIZE, True),
    Family("XLM-RoBERTa", "XLMRobertaConfig", SIZE, True),
    Family("DistilBERT", "DistilBertConfig", {"n_layers": 2, "n_heads": 4, "dim": 64, "hidden_dim": 128}, True),
    Family("ELECTRA", "ElectraConfig", {**SIZE, "embedding_size": 32}, True),
    Family("ALBERT", "AlbertConfig", {**SIZE, "embedding_size": 32}, True),
    Family("DeBERTa V2", "DebertaV2Config", {**SIZE, "relative_attention": True, "position_buckets": 32, "pos_att_type": ["p2c", "c2p"]}, True),
    Family("MPNet", "MPNetConfig", SIZE, True),
    Family("ModernBERT", "ModernBertConfig", {**SIZE, "num_hidden_layers": 4}, True),
    Family("EuroBERT", "EuroBertConfig", GROUPED, True),
)  # fmt: skip
FAMILIES = {family.name: family for family in (*DECODERS, *ENCODERS)}
