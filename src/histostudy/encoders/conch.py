"""Image side of CONCH: a ViT-B/16 and one attentional query that pools its tokens.

Lu et al., "A visual-language foundation model for computational pathology", Nature Medicine 2024,
doi:10.1038/s41591-024-02856-4; the pooling is that of CoCa (Yu et al. 2022, arXiv:2205.01917).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AttentionalPool(nn.Module):
    """`queries` learned vectors attend to the tokens (CoCa, section 3.2).

    Parameters
    ----------
    dim, dim_tokens : int
        Width of the result and of the tokens.
    heads : int
        Attention heads.
    queries : int
        Learned queries.
    """

    def __init__(self, dim: int, dim_tokens: int, heads: int = 8, queries: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=dim_tokens, vdim=dim_tokens, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(dim_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim_tokens) -> (B, queries, dim)."""
        keys = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)
        return self.attn(query, keys, keys, need_weights=False)[0]


class ConchImage(nn.Module):
    """CONCH's image vector before its projection to the shared space: (B, 3, size, size) -> (B, 512)."""

    def __init__(self, size: int = 448, architecture: str = "vit_base_patch16_224", dim: int = 512) -> None:
        super().__init__()
        import timm

        trunk: Any = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=size)
        self.trunk = trunk
        self.attn_pool_contrast = AttentionalPool(dim, trunk.num_features)
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """Vectors of normalised images."""
        trunk: Any = self.trunk
        tokens = trunk.forward_features(image)
        return self.ln_contrast(self.attn_pool_contrast(tokens)[:, 0])
