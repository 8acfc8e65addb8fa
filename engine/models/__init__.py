"""Model code: DeepSeek (MLA + MoE) and Qwen3-MoE (GQA + MoE), and their Hugging Face checkpoints."""
