"""What each aggregator is, in a phrase, and where it was published: for the methods of a report.

A mapping rather than an attribute of the classes, so that a report needs no torch. A test asks for every registered
name.
"""

from __future__ import annotations

AGGREGATORS: dict[str, str] = {
    "mean": "the mean of the tiles",
    "max": "the largest value over the tiles of each dimension",
    "abmil": "attention-based multiple-instance learning (Ilse et al., ICML 2018)",
    "clam_sb": "CLAM-SB, attention whose most and least attended tiles are clustered (Lu et al., Nat Biomed Eng 2021)",
    "clam_mb": "CLAM-MB, CLAM with a branch of attention an output (Lu et al., Nat Biomed Eng 2021)",
    "dsmil": "DSMIL, attention by likeness to each output's critical tile (Li et al., CVPR 2021)",
    "self_vit_mil": "the aggregator of Self-ViT-MIL, DSMIL with linear queries and values (Gul et al., SPIE Medical "
    "Imaging 2022)",
    "dtfd": "DTFD-MIL, two tiers of attention over pseudo-bags (Zhang et al., CVPR 2022)",
    "ilra": "ILRA-MIL, tiles re-embedded through a few latent vectors (Xiang et al., ICLR 2023)",
    "otsurv": "OTSurv, tiles carried to learned prototypes by partial optimal transport (Ren et al., MICCAI 2025)",
    "panther": "PANTHER, a Gaussian mixture of the tiles around the cohort's prototypes (Song et al., CVPR 2024)",
    "token_merging": "size-aware token merging before gated attention (our reading of PathoHR, 2025; ToMe, Bolya et "
    "al., ICLR 2023)",
    "moe_pkt": "MoE-PKT, a routed mixture of experts over frozen models of other tasks (Path-PKT, 2025)",
    "weakstil": "a sigmoid score of each tile within the target's range, averaged over the slide (our reading of "
    "WeakSTIL, SPIE Medical Imaging 2022)",
    "mixed_magnification": "a transformer over the tiles of each region, pretrained by masking "
    "(our reading of mixed-magnification aggregation, arXiv 2602.22176, 2026)",
    "transmil": "TransMIL, a transformer with attention by landmarks over the tiles (Shao et al., NeurIPS 2021)",
    "rrt": "RRT, tiles embedded anew by attention in and across regions (Tang et al., CVPR 2024)",
    "mambamil": "MambaMIL, a state-space model over the tiles in order and in strides (Yang et al., MICCAI 2024)",
    "mamba2d": "2DMambaMIL, a state-space model along the rows and columns of tiles (Zhang et al., CVPR 2025)",
    "lbmamba": "a state-space model with a backward scan in short windows (our reading of LBMambaMIL, TMLR 2025)",
    "wikg": "WiKG, a learned directed graph of tiles (Li et al., CVPR 2024)",
    "gnn_vitcap": "a graph of representatives of learned clusters of tiles (our reading of GNN-ViTCap, IJCNN 2025)",
    "hist2rna": "hist2RNA, a perceptron on the mean of the tiles (Mondol et al., Cancers 2023)",
    "he2rna": "HE2RNA, the mean of each output's highest tile scores (Schmauch et al., Nat Commun 2020)",
    "sequoia": "SEQUOIA, cluster means and linearised attention (Pizurica et al., Nat Commun 2024)",
    "snn": "a self-normalising network of tables, without tiles (Klambauer et al., NeurIPS 2017; as in MCAT, ICCV "
    "2021)",
    "mcat": "MCAT, gene-guided co-attention over the tiles (Chen et al., ICCV 2021)",
    "motcat": "MOTCat, tiles matched to groups of genes by optimal transport (Xu and Chen, ICCV 2023)",
    "survpath": "SurvPath, pathways and tiles in one transformer (Jaume et al., CVPR 2024)",
    "pibd": "PIBD, prototypical information bottlenecks and disentanglement (Zhang et al., ICLR 2024)",
}

#: Aggregators with a way of their own to join tables; any other is fused with them late.
OWN_FUSION = frozenset({"snn", "mcat", "motcat", "survpath", "pibd"})


def aggregator_phrase(name: str) -> str:
    """What an aggregator is; one that nobody described keeps its name."""
    return AGGREGATORS.get(name, f"the aggregator {name}")
