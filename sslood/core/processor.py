"""What the processor can do."""

import torch


def multiplies_bf16() -> bool:
    """Whether it multiplies bfloat16 natively; without, torch emulates it and is slower."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
