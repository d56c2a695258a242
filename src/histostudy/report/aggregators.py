"""What each aggregator is, in a phrase, and where it was published: for the methods of a report.

A mapping rather than an attribute of the classes, so that a report needs no torch. A test asks for every registered
name.
"""

from __future__ import annotations

AGGREGATORS: dict[str, str] = {
    "mean": "the mean of the tiles",
    "max": "the largest value over the tiles of each dimension",
    "abmil": "attention-based multiple-instance learning (Ilse et al., ICML 2018)",
    "otsurv": "OTSurv, tiles carried to learned prototypes by partial optimal transport (Ren et al., MICCAI 2025)",
    "panther": "PANTHER, a Gaussian mixture of the tiles around the cohort's prototypes (Song et al., CVPR 2024)",
    "token_merging": "size-aware token merging before gated attention (our reading of PathoHR, 2025; ToMe, Bolya et "
    "al., ICLR 2023)",
    "moe_pkt": "MoE-PKT, a routed mixture of experts over frozen models of other tasks (Path-PKT, 2025)",
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
