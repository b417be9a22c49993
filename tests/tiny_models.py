"""A tiny random model of every family, in memory, every weight away from its initial 0 or 1."""

import torch
import transformers

D_MODEL, D_MLP, LAYERS, D_VOCAB = 16, 24, 2, 40
TOKENS = torch.arange(12).reshape(2, 6)


def tiny(family):
    """A random model of a family."""
    sizes = {
        "vocab_size": D_VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        sizes = {"vocab_size": D_VOCAB, "n_embd": D_MODEL, "n_inner": D_MLP, "n_layer": LAYERS}
        sizes |= {"n_head": 2, "n_positions": 32, "bos_token_id": 1, "eos_token_id": 2}
    if family == "gpt_neox":  # whose queries share no keys
        del sizes["num_key_value_heads"]
    if family == "gemma4_text":  # without what it adds behind the MLP, token by token
        sizes |= {"global_head_dim": 8, "hidden_size_per_layer_input": 0}
    config = transformers.AutoConfig.for_model(family, **sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()
