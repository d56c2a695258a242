"""Encoders loaded from small random weights, by the path that hub models take; and every way that fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histostudy.encoders.registry import ENCODERS, encoder_identity, facts_of, load_encoder, slug
from histostudy.errors import ConfigError, EncoderError
from histostudy.study import Features

TILES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SOURCES = ("builtin", "conch", "mobilenet", "shipped", "student", "timm", "transformers")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))


def features(encoder: str, checkpoint: Path | None = None, **options: Any) -> Features:
    return Features(encoder=encoder, checkpoint=checkpoint, **options)


def save_timm(folder: Path, architecture: str = "vit_tiny_patch16_224", suffix: str = ".safetensors", **args: Any):
    """Save a random timm model as `timm.models.push_to_hf_hub` lays it out."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    args = args or dict(TINY)
    model = timm.create_model(architecture, num_classes=0, **args).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir(parents=True, exist_ok=True)
    if suffix == ".safetensors":
        save_file(model.state_dict(), folder / "model.safetensors")
    else:
        torch.save(model.state_dict(), folder / f"pytorch_model{suffix}")
    config = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 32, 32]}
    (folder / "config.json").write_text(
        json.dumps({"architecture": architecture, "model_args": args, "pretrained_cfg": config})
    )
    return model


def normalised(tiles: np.ndarray, mean: Any = 0.5, std: Any = 0.25):
    import torch

    return (torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_timm_folder(tmp_path: Path, suffix: str):
    import torch

    model = save_timm(tmp_path, suffix=suffix)
    encoder = load_encoder(features("timm:some/model", tmp_path), 0.5)
    with torch.inference_mode():
        want = model(normalised(TILES)).numpy()
    np.testing.assert_allclose(encoder.encode(TILES), want, atol=1e-5)
    assert encoder.dim == 24 and encoder.identity["transform"]["mean"] == [0.5] * 3
    assert encoder.identity == encoder_identity(features("timm:some/model", tmp_path), 0.5)
    np.testing.assert_array_equal(encoder.encode(TILES), load_encoder(features("timm:a/b", tmp_path), 1).encode(TILES))


@pytest.mark.parametrize("registers", [0, 4])
def test_timm_class_and_mean_without_registers(tmp_path: Path, registers: int):
    import torch

    model = save_timm(tmp_path, **TINY, reg_tokens=registers)
    encoder = load_encoder(features("timm:some/model?cls+mean", tmp_path), 0.5)
    with torch.inference_mode():
        tokens = model.forward_features(normalised(TILES))
    assert tokens.shape[1] == 16 + 1 + registers
    want = torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], dim=1)
    np.testing.assert_allclose(encoder.encode(TILES), want.numpy(), atol=1e-5)
    assert encoder.identity["variant"] == "cls+mean" and encoder.dim == 48
    other = load_encoder(features("timm:some/model?mean", tmp_path), 0.5)
    np.testing.assert_allclose(other.encode(TILES), want[:, 24:].numpy(), atol=1e-5)


def test_timm_bare_file_needs_an_architecture(tmp_path: Path):
    save_timm(tmp_path, "resnet18", in_chans=3)
    (tmp_path / "config.json").unlink()
    file = tmp_path / "model.safetensors"
    encoder = load_encoder(features("timm:resnet18", file), 0.5)
    assert encoder.dim == 512
    with pytest.raises(EncoderError, match="which architecture"):
        load_encoder(features("timm:some/model", file), 0.5)
    with pytest.raises(EncoderError, match=r"do not fit .* missing"):
        load_encoder(features("timm:vit_tiny_patch16_224", file), 0.5)


def test_resnet50_is_cut_after_its_third_stage(tmp_path: Path):
    import timm
    import torch

    model = timm.create_model("resnet50", num_classes=10).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "r.pth")
    encoder = load_encoder(features("resnet50", tmp_path / "r.pth"), 0.5)
    with torch.inference_mode():
        x = (torch.zeros(1, 3, 224, 224) - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(1, 3, 1, 1)
        x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        want = model.layer3(model.layer2(model.layer1(x))).mean((2, 3)).numpy()
    np.testing.assert_allclose(encoder.encode(np.zeros((1, 224, 224, 3), np.uint8)), want, atol=1e-4)


def small_transformer(kind: str):
    import torch
    import transformers as tf

    torch.manual_seed(2)
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    if kind == "vit":
        return tf.ViTModel(tf.ViTConfig(**size, intermediate_size=48), add_pooling_layer=False).eval(), 1
    if kind == "dinov2":
        return tf.Dinov2Model(tf.Dinov2Config(**size)).eval(), 1
    if kind == "dinov2_registers":
        config = tf.Dinov2WithRegistersConfig(**size, num_register_tokens=4)
        return tf.Dinov2WithRegistersModel(config).eval(), 5
    config = tf.DINOv3ViTConfig(**size, intermediate_size=48, num_register_tokens=4)
    return tf.DINOv3ViTModel(config).eval(), 5


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov2_registers", "dinov3"])
def test_transformers_folder(tmp_path: Path, kind: str):
    import torch

    model, prefix = small_transformer(kind)
    model.save_pretrained(tmp_path)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with torch.inference_mode():
        tokens = model(pixel_values=normalised(TILES)).last_hidden_state
    assert tokens.shape[1] == 16 + prefix
    want = torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=1).numpy()
    encoder = load_encoder(features("transformers:some/model?cls+mean", tmp_path), 0.5)
    np.testing.assert_allclose(encoder.encode(TILES), want, atol=1e-5)
    file = next(tmp_path.glob("*.safetensors"))
    encoder = load_encoder(features("transformers:some/model?cls", file), 0.5)
    np.testing.assert_allclose(encoder.encode(TILES), want[:, :24], atol=1e-5)


def test_registered_transformer_checks_its_width(tmp_path: Path):
    small_transformer("vit")[0].save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="vectors of 24, not 768"):
        load_encoder(features("phikon", tmp_path), 0.5)


def test_missing_weights_are_never_random(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    small_transformer("vit")[0].save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "layer.1." not in k and "layers.1." not in k}, tmp_path / "model.safetensors"
    )
    with pytest.raises(EncoderError, match="missing"):
        load_encoder(features("transformers:some/model", tmp_path), 0.5)


def test_tiles_are_resized_to_the_input(tmp_path: Path):
    save_timm(tmp_path)
    encoder = load_encoder(features("timm:some/model", tmp_path), 0.5)
    flat = np.full((2, 50, 50, 3), 90, np.uint8)
    np.testing.assert_allclose(encoder.encode(flat), encoder.encode(flat[:, :32, :32]), atol=1e-5)


def test_conch_image_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    from histostudy.encoders import conch

    model = conch.ConchImage(32, "vit_tiny_patch16_224").eval()
    state = {f"visual.{k}": v for k, v in model.state_dict().items()}
    extra = {
        "visual.attn_pool_caption.query": torch.zeros(2),
        "visual.proj_contrast": torch.zeros(2),
        "text.x": torch.zeros(1),
    }
    torch.save(state | extra, tmp_path / "pytorch_model.bin")
    whole = conch.ConchImage
    monkeypatch.setattr(conch, "ConchImage", lambda size: whole(32, "vit_tiny_patch16_224"))
    monkeypatch.setitem(ENCODERS._items, "conch", replace(ENCODERS["conch"], input_px=32))
    encoder = load_encoder(features("conch", tmp_path / "pytorch_model.bin"), 0.5)
    facts = ENCODERS["conch"]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (facts.mean, facts.std))
    with torch.inference_mode():
        want = model(normalised(TILES, mean, std)).numpy()
    assert encoder.dim == 512
    np.testing.assert_allclose(encoder.encode(TILES), want, atol=1e-5)


def test_facts_are_complete():
    wanted = {
        "uni", "uni2_h", "phikon", "phikon_v2", "h0_mini", "h_optimus_0", "h_optimus_1", "virchow", "virchow2",
        "gigapath", "hibou_l", "hibou_b", "kaiko_vits8", "kaiko_vits16", "kaiko_vitb8", "kaiko_vitb16", "kaiko_vitl14",
        "lunit_vits8", "midnight", "pluto_4s", "pluto_4g", "dinov3_s", "dinov3_l", "conch", "resnet50", "builtin",
    }  # fmt: skip
    assert wanted <= set(ENCODERS)
    for name in ENCODERS:
        facts = ENCODERS[name]
        assert facts.licence != "unknown" and facts.source in SOURCES
        assert facts.mean is None or len(facts.mean) == len(facts.std or ()) == 3


#: Parameters in millions, from the papers and model cards.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("uni", 303), ("uni2_h", 681), ("h_optimus_0", 1135), ("h0_mini", 86), ("virchow", 631), ("virchow2", 631),
     ("gigapath", 1135), ("kaiko_vitl14", 303), ("lunit_vits8", 22)],
)  # fmt: skip
def test_architectures_have_the_published_size(name: str, millions: float):
    import timm
    import torch

    from histostudy.encoders.vision import _layer

    facts = ENCODERS[name]
    with torch.device("meta"):
        options = {k: _layer(v) for k, v in facts.options.items()}
        model = timm.create_model(facts.architecture, pretrained=False, num_classes=0, **options)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    assert facts.dim == model.num_features * (2 if facts.variant == "cls+mean" else 1)


@pytest.mark.parametrize(
    ("name", "mpp", "tile_px", "fine"),
    [("uni", 0.5, 224, True), ("uni", 0.5, 256, True), ("uni", 0.25, 448, True), ("uni", 0.25, 224, False),
     ("uni", 1.143, 224, False), ("virchow2", 2.0, 224, True), ("virchow2", 4.0, 224, False),
     ("builtin", 3.0, 224, True), ("resnet50", 8.0, 224, True)],
)  # fmt: skip
def test_the_trained_scale_is_enforced(tmp_path: Path, name: str, mpp: float, tile_px: int, fine: bool):
    for allow in (False, True):
        settings = features(name, None, allow_mpp_mismatch=allow)
        if name == "builtin":
            load_encoder(settings, mpp, tile_px=tile_px)
            continue
        with pytest.raises(EncoderError) as caught:  # there are no weights here: which error comes first?
            load_encoder(settings, mpp, tile_px=tile_px)
        assert ("was trained at" in str(caught.value)) == (not fine and not allow)


def test_no_network_is_one_line_that_says_what_to_do():
    with pytest.raises(EncoderError) as caught:
        load_encoder(features("uni"), 0.5)
    line = str(caught.value)
    assert "\n" not in line and "https://huggingface.co/MahmoodLab/uni" in line
    assert "huggingface-cli login" in line and "checkpoint:" in line
    with pytest.raises(EncoderError, match="run once with the network, or give features.checkpoint"):
        load_encoder(features("phikon"), 0.5)
    with pytest.raises(EncoderError, match="no public weights; give features.checkpoint"):
        load_encoder(features("pluto_4s"), 0.5)


def test_no_access_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))

    def refuse(error: type[Exception]):
        def download(*_: object, **__: object):
            raise error("403\nmany lines", response=answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    refuse(GatedRepoError)
    with pytest.raises(EncoderError, match="is gated .* accept the licence at https://.*login") as caught:
        load_encoder(features("uni2_h"), 0.5)
    assert "\n" not in str(caught.value)
    refuse(RepositoryNotFoundError)
    with pytest.raises(EncoderError, match="no model some/thing on the hub"):
        load_encoder(features("timm:some/thing"), 0.5)


def test_a_hub_model_takes_the_same_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    snapshot = tmp_path / "snapshots" / "abc123"
    save_timm(snapshot)
    asked: dict[str, Any] = {}

    def download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub = load_encoder(features("timm:some/model@v1"), 0.5)
    assert asked["repo"] == "some/model" and asked["revision"] == "v1"
    assert hub.identity["revision"] == "abc123"
    local = load_encoder(features("timm:some/model", snapshot), 0.5)
    assert hub.identity["weights_sha256"] == local.identity["weights_sha256"]
    np.testing.assert_array_equal(hub.encode(TILES), local.encode(TILES))


def test_broken_checkpoints(tmp_path: Path):
    import torch

    with pytest.raises(EncoderError, match="no checkpoint"):
        load_encoder(features("uni", tmp_path / "none.bin"), 0.5)
    with pytest.raises(EncoderError, match="no weights in"):
        load_encoder(features("uni", tmp_path), 0.5)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(EncoderError, match="not a weights file"):
        load_encoder(features("uni", tmp_path / "notes.txt"), 0.5)
    for name, content in (("a.bin", b"garbage"), ("b.safetensors", b"garbage"), ("c.bin", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EncoderError, match="not a file of tensors"):
            load_encoder(features("timm:vit_tiny_patch16_224", tmp_path / name), 0.5)
    torch.save({"run": Path("x")}, tmp_path / "d.bin")  # a pickle that would run code
    with pytest.raises(EncoderError, match="not a file of tensors"):
        load_encoder(features("timm:vit_tiny_patch16_224", tmp_path / "d.bin"), 0.5)
    with pytest.raises(EncoderError, match="give the folder that save_pretrained wrote"):
        load_encoder(features("phikon", tmp_path / "a.bin"), 0.5)


def test_names():
    with pytest.raises(ConfigError, match="did you mean 'uni2_h'"):
        facts_of("uni2h")
    with pytest.raises(EncoderError, match="cannot read encoder"):
        facts_of("timm:a/b/c")
    with pytest.raises(EncoderError, match="no weights"):
        load_encoder(features("builtin", Path("x")), 0.5)
    assert facts_of("uni@abc").revision == "abc"
    assert slug("timm:a/b?cls+mean@v1") == "timm-a-b-cls+mean-v1"
