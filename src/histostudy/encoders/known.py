"""The encoders known by name, and their facts.

Dimensions, input sizes, normalisation and scales are those of the model cards and of the tools that run
them; a fact that the weights' own configuration states (``config.json``) is checked against it on loading.
No revision is pinned here, because a pin that nobody has run is worth nothing: the commit and the SHA-256 of
the weights actually used go into the identity of the features, and ``<name>@<revision>`` pins one.
"""

from __future__ import annotations

from typing import Any

from histostudy.encoders.base import HALF, EncoderFacts
from histostudy.registry import Registry

ENCODERS: Registry[EncoderFacts] = Registry("encoder")

_NC_ND = "CC-BY-NC-ND-4.0"
_HOPT: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_HIBOU: dict[str, Any] = {"mean": (0.7068, 0.5755, 0.722), "std": (0.195, 0.2316, 0.1816)}
_LUNIT: dict[str, Any] = {
    "mean": (0.70322989, 0.53606487, 0.66096631),
    "std": (0.21716536, 0.26081574, 0.20723464),
}
_OPENAI: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
_HALF: dict[str, Any] = {"mean": HALF[0], "std": HALF[1]}
_SWIGLU = {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU"}
_MULTI = (0.25, 0.5, 1.0, 2.0)


def _add(name: str, source: str, hub_id: str | None, dim: int, **facts: Any) -> None:
    ENCODERS.register(name)(EncoderFacts(name=name, source=source, hub_id=hub_id, dim=dim, **facts))


_add(
    "builtin", "builtin", None, 0, input_px=None, mpp=None, mean=None, std=None, variant="statistics",
    licence="Apache-2.0", note="colour, stain, texture and nuclear statistics; no weights; named columns",
)  # fmt: skip
_HALF_255: dict[str, Any] = {"mean": (128 / 255,) * 3, "std": (128 / 255,) * 3}
_add(
    "builtin_cnn", "shipped", None, 768, mpp=None, **_HALF_255, variant="pool", licence="Apache-2.0",
    note="shipped in the package (1.2 MB): a small CNN distilled from MobileNetV1; see weights/builtin_cnn.md",
)  # fmt: skip
_add(
    "mobilenet_v1", "mobilenet", None, 1024, mpp=None, **_HALF_255, variant="pool", licence="Apache-2.0",
    note="ImageNet, batch norms folded; give checkpoint: layers.<i>.weight and layers.<i>.bias; arXiv:1704.04861",
)  # fmt: skip
_add(
    "mobilenet_v1_depths", "mobilenet", None, 2560, input_px=160, mpp=None, **_HALF_255, variant="depths",
    licence="Apache-2.0", note="the same at three depths: what builtin_cnn was distilled from",
)  # fmt: skip
ENCODERS.register("pretrained")(
    EncoderFacts(
        name="pretrained",
        source="student",
        hub_id=None,
        dim=None,
        input_px=None,
        mpp=None,
        mean=None,
        std=None,
        licence="the study's own",
        note="made by the study's pretrain section, or features.checkpoint: its folder",
    )  # fmt: skip
)
_add(
    "resnet50", "timm", "timm/resnet50.tv_in1k", 1024, mpp=None, variant="layer3", licence="BSD-3-Clause",
    architecture="resnet50", note="ImageNet; cut after the third stage, as CLAM does",
)  # fmt: skip
_add(
    "uni", "timm", "MahmoodLab/uni", 1024, licence=_NC_ND, gated=True,
    architecture="vit_large_patch16_224", options={"init_values": 1e-5, "dynamic_img_size": True},
    note="Chen et al. 2024, doi:10.1038/s41591-024-02857-3",
)  # fmt: skip
_add(
    "uni2_h", "timm", "MahmoodLab/UNI2-h", 1536, licence=_NC_ND, gated=True,
    architecture="vit_giant_patch14_224",
    options={
        "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5,
        "embed_dim": 1536, "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8,
        "dynamic_img_size": True, **_SWIGLU,
    },
)  # fmt: skip
_add("phikon", "transformers", "owkin/phikon", 768, licence="Owkin non-commercial", note="Filiot et al. 2023")
_add("phikon_v2", "transformers", "owkin/phikon-v2", 1024, licence="Owkin non-commercial", note="arXiv:2409.09173")
_add(
    "h_optimus_0", "timm", "bioptimus/H-optimus-0", 1536, **_HOPT, licence="Apache-2.0",
    architecture="vit_giant_patch14_reg4_dinov2",
    options={"img_size": 224, "init_values": 1e-5, "global_pool": "token", "dynamic_img_size": False},
)  # fmt: skip
_add(
    "h_optimus_1", "timm", "bioptimus/H-optimus-1", 1536, **_HOPT, licence=_NC_ND, gated=True,
    architecture="vit_giant_patch14_reg4_dinov2",
    options={"img_size": 224, "init_values": 1e-5, "global_pool": "token", "dynamic_img_size": False},
)  # fmt: skip
for _variant, _dim, _name in (("cls+mean", 1536, "h0_mini"), ("cls", 768, "h0_mini_cls")):
    _add(
        _name, "timm", "bioptimus/H0-mini", _dim, **_HOPT, variant=_variant, licence=_NC_ND, gated=True,
        architecture="vit_base_patch14_reg4_dinov2",
        options={"img_size": 224, "init_values": 1e-5, "global_pool": "", "mlp_ratio": 2.66667 * 2, **_SWIGLU},
        note="distilled from H-optimus-0; arXiv:2501.16239",
    )  # fmt: skip
_VIRCHOW: dict[str, Any] = {
    "img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True,
    **_SWIGLU,
}  # fmt: skip
_add(
    "virchow", "timm", "paige-ai/Virchow", 2560, variant="cls+mean", licence="Apache-2.0", gated=True,
    architecture="vit_huge_patch14_224", options=_VIRCHOW, note="doi:10.1038/s41591-024-03141-0",
)  # fmt: skip
_add(
    "virchow2", "timm", "paige-ai/Virchow2", 2560, mpp=_MULTI, variant="cls+mean", licence=_NC_ND, gated=True,
    architecture="vit_huge_patch14_224", options={**_VIRCHOW, "reg_tokens": 4}, note="arXiv:2408.00738",
)  # fmt: skip
_add(
    "gigapath", "timm", "prov-gigapath/prov-gigapath", 1536, licence="Apache-2.0 with conditions", gated=True,
    architecture="vit_giant_patch14_dinov2",
    options={
        "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24,
        "init_values": 1e-5, "mlp_ratio": 5.33334,
    },
    note="tile encoder; doi:10.1038/s41586-024-07441-w",
)  # fmt: skip
_add(
    "hibou_l", "transformers", "histai/hibou-L", 1024, **_HIBOU, licence="Apache-2.0", gated=True,
    note="its repository runs code of its own: give checkpoint: a Dinov2WithRegisters folder; arXiv:2406.05074",
)  # fmt: skip
_add(
    "hibou_b", "transformers", "histai/hibou-b", 768, **_HIBOU, licence="Apache-2.0", gated=True,
    note="its repository runs code of its own: give checkpoint: a Dinov2WithRegisters folder; arXiv:2406.05074",
)  # fmt: skip
for _name, _arch, _dim in (
    ("kaiko_vits8", "vit_small_patch8_224", 384),
    ("kaiko_vits16", "vit_small_patch16_224", 384),
    ("kaiko_vitb8", "vit_base_patch8_224", 768),
    ("kaiko_vitb16", "vit_base_patch16_224", 768),
    ("kaiko_vitl14", "vit_large_patch14_reg4_224", 1024),
):
    _add(
        _name, "timm", f"1aurent/{_arch}.kaiko_ai_towards_large_pathology_fms", _dim, mpp=_MULTI, **_HALF,
        architecture=_arch.replace("reg4_224", "reg4_dinov2"), licence="Kaiko non-commercial",
        options={"img_size": 224, "dynamic_img_size": True}, note="arXiv:2404.15217",
    )  # fmt: skip
for _patch in (8, 16):
    _add(
        f"lunit_vits{_patch}", "timm", f"1aurent/vit_small_patch{_patch}_224.lunit_dino", 384, **_LUNIT,
        architecture=f"vit_small_patch{_patch}_224", licence="Lunit non-commercial", note="arXiv:2212.04690",
    )  # fmt: skip
_add(
    "midnight", "transformers", "kaiko-ai/midnight", 3072, mpp=_MULTI, **_HALF, variant="cls+mean", licence="MIT",
    note="arXiv:2504.05186",
)  # fmt: skip
_add(
    "pluto_4s", "timm", None, 384, mpp=_MULTI, licence="PathAI, on request",
    note="weights are not on the hub: give checkpoint: a folder with config.json; arXiv:2511.02826",
)  # fmt: skip
_add(
    "pluto_4g", "timm", None, 1536, mpp=_MULTI, licence="PathAI, on request",
    note="weights are not on the hub: give checkpoint: a folder with config.json; arXiv:2511.02826",
)  # fmt: skip
for _name, _size, _dim in (("dinov3_s", "vits16", 384), ("dinov3_b", "vitb16", 768), ("dinov3_l", "vitl16", 1024)):
    _add(
        _name, "transformers", f"facebook/dinov3-{_size}-pretrain-lvd1689m", _dim, mpp=None, licence="DINOv3",
        gated=True, note="natural images; arXiv:2508.10104",
    )  # fmt: skip
_add(
    "conch", "conch", "MahmoodLab/conch", 512, **_OPENAI, input_px=448, variant="contrast", licence=_NC_ND, gated=True,
    note="image side, before the projection; doi:10.1038/s41591-024-02856-4",
)  # fmt: skip
