"""Precision, compilation, memory order, ONNX: what changes numbers changes the identity, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from histostudy.cli import app
from histostudy.encoders.registry import encoder_identity, facts_of, load_encoder
from histostudy.encoders.runtime import Runtime, lay_out
from histostudy.encoders.vision import identity_of
from histostudy.errors import EncoderError
from histostudy.features.store import encoding_of
from histostudy.layout import Layout
from histostudy.runtime_keys import RuntimeKeys, runtime_label
from histostudy.study import Features, Study

TILES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "histostudy" / "onnx"


def saved(folder: Path, architecture: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    """A small network of random weights, as a folder of the hub; returns the network."""
    import timm
    import torch
    from safetensors.torch import save_file

    from histostudy.encoders.vision import _layer

    options = options or dict(VIT)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(architecture, num_classes=0, **{k: _layer(v) for k, v in options.items()}).eval()
        if architecture.startswith("vit"):
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 32, 32]}
    text = json.dumps({"architecture": architecture, "model_args": options, "pretrained_cfg": config})
    (folder / "config.json").write_text(text)
    return model


def loaded(folder: Path, variant: str = "", **keys: Any) -> Any:
    return load_encoder(Features(encoder=f"timm:some/model{variant}", checkpoint=folder, **keys), 0.5)


def test_keys():
    assert runtime_label(Features()) == "" and runtime_label(RuntimeKeys(precision="bfloat16")) == "-bfloat16"
    assert runtime_label(RuntimeKeys(runtime="onnx")) == "-onnx"
    assert runtime_label(RuntimeKeys(precision="float16", compile=True)) == "-float16-compiled"
    homes = {
        Layout(Study(study="s", cohort={"name": "c", "slides": "s.csv"}, features=keys)).features.name
        for keys in ({"encoder": "uni"}, {"encoder": "uni", "runtime": "onnx"}, {"encoder": "uni", "compile": True})
    }
    assert homes == {"uni", "uni-onnx", "uni-compiled"}  # studies of one cohort do not overwrite each other's
    for wrong in ({"precision": "bfloat16"}, {"compile": True}):
        with pytest.raises(ValidationError, match="onnx"):
            Features(runtime="onnx", **wrong)
    with pytest.raises(EncoderError, match="builtin has no network"):
        load_encoder(Features(precision="bfloat16"), 0.5)


def test_the_defaults_are_named_as_they_always_were(tmp_path: Path):
    from histostudy.encoders.checkpoint import find_weights

    saved(tmp_path)
    facts = facts_of("timm:some/model")
    weights = find_weights(facts, tmp_path)
    wanted = {"encoder", "hub_id", "revision", "weights_sha256", "variant", "transform", "precision", "code"}
    for device, name in (("cpu", "float32"), ("cuda:0", "bfloat16-autocast")):
        made = identity_of(facts, weights, device)
        assert set(made) == wanted and made["precision"] == name
        assert made == identity_of(facts, weights, runtime=Runtime.on(device, Features()))
    # float32 on the CPU is the default said aloud: the same numbers, the same identity
    assert Runtime.on("cpu", RuntimeKeys(precision="float32")) == Runtime.on("cpu")


def test_every_runtime_has_an_identity_of_its_own():
    keys = [RuntimeKeys(precision=p, compile=c) for p in ("float32", "bfloat16", "float16") for c in (False, True)]
    runtimes = [Runtime.on(device, k) for device in ("cpu", "cuda") for k in keys]
    runtimes.append(Runtime.on("cpu", RuntimeKeys(runtime="onnx")))
    names = [json.dumps(encoding_of(r.identity()), sort_keys=True) for r in runtimes]  # so that bags do not mix them
    assert len(set(names)) == len(names) == 13
    assert Runtime.on("cuda", RuntimeKeys(runtime="onnx")).device == "cpu"


@pytest.mark.parametrize(("precision", "near"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_on_the_cpu_if_asked(tmp_path: Path, precision: str, near: float):
    import torch

    model = saved(tmp_path)
    encoder = loaded(tmp_path, precision=precision)
    assert encoder.identity["precision"] == f"{precision}-autocast-cpu"
    image = (torch.from_numpy(TILES).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.inference_mode(), torch.autocast("cpu", getattr(torch, precision)):
        wanted = model(image).float().numpy()
    found, whole = encoder.encode(TILES), loaded(tmp_path).encode(TILES)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - whole).max() < near * np.abs(whole).max()


def test_channels_last_is_of_convolutions_and_changes_no_number(tmp_path: Path):
    import torch

    model = saved(tmp_path, "resnet18", in_chans=3)
    encoder = loaded(tmp_path)
    assert encoder.module.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not encoder.module.layer1[0].conv1.weight.is_contiguous()
    pixels = torch.from_numpy(TILES).permute(0, 3, 1, 2).float().div_(255)
    with torch.inference_mode():
        plain = model((pixels - 0.5) / 0.25).numpy()  # the tiles' own order, the weights in the usual one
        other = model(((pixels - 0.5) / 0.25).contiguous()).numpy()
    np.testing.assert_array_equal(encoder.encode(TILES), plain)
    np.testing.assert_allclose(plain, other, atol=1e-5)
    vit = saved(tmp_path / "vit")
    assert lay_out(vit) is vit and vit.patch_embed.proj.weight.is_contiguous()


def test_float32_of_a_gpu_is_not_tf32(monkeypatch: pytest.MonkeyPatch):
    """Without a GPU only the switch itself can be looked at."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    with Runtime.on("cuda", RuntimeKeys(precision="float32")).arithmetic():
        assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic == before[1]
        assert not torch.is_autocast_enabled("cuda")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


def test_compiled_batches_are_filled_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The compiler itself takes a minute: what is compiled here is only watched."""
    import torch

    saved(tmp_path)
    seen: list[int] = []

    def watched(function: Any, dynamic: bool) -> Any:
        assert dynamic is False

        def call(image: torch.Tensor) -> torch.Tensor:
            seen.append(len(image))
            return function(image)

        return call

    monkeypatch.setattr(torch, "compile", watched)
    encoder = loaded(tmp_path, compile=True, batch_size=4)
    assert seen == [4]  # at loading, so that a machine that cannot says so then
    found = encoder.encode(TILES[:3])
    assert seen == [4, 4] and found.shape == (3, 24)
    np.testing.assert_allclose(found, loaded(tmp_path).encode(TILES[:3]), atol=1e-5)
    assert encoder.identity["runtime"].startswith("torch.compile ")

    def fails(function: Any, dynamic: bool) -> Any:
        def call(image: torch.Tensor) -> torch.Tensor:
            raise torch._dynamo.exc.BackendCompilerFailed("inductor", RuntimeError("no g++"), None)

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(EncoderError, match="cannot be compiled here .* compile: false"):
        loaded(tmp_path, compile=True)


# ---- variants ----
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 4}, {"reg_tokens": 4, "no_embed_class": True}])
@pytest.mark.parametrize("pool", ["token", "avg", ""])
def test_variants_against_timm(tmp_path: Path, options: dict[str, Any], pool: str):
    import torch

    model = saved(tmp_path, **VIT, **options, global_pool=pool)
    image = (torch.from_numpy(TILES).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.inference_mode():
        tokens, whole = model.forward_features(image), model(image)
        patches = model.get_intermediate_layers(image, n=1, norm=True)[0]
    assert patches.shape[1] == 16  # timm's own idea of which tokens are patches
    wanted = {"cls": tokens[:, 0], "mean": patches.mean(1), "pool": whole[:, 0] if pool == "" else whole}
    wanted["cls+mean"] = torch.cat([wanted["cls"], wanted["mean"]], 1)
    if pool == "avg":  # timm normalises after pooling then: its tokens are not normalised
        wanted["mean"] = tokens[:, 1 + options.get("reg_tokens", 0) :].mean(1)
        wanted["cls+mean"] = torch.cat([wanted["cls"], wanted["mean"]], 1)
    for variant, value in wanted.items():
        encoder = loaded(tmp_path, f"?{variant}")
        np.testing.assert_allclose(encoder.encode(TILES), value.numpy(), atol=2e-5)
        assert encoder.identity["variant"] == variant


def test_a_register_is_never_taken_for_the_class_token(tmp_path: Path):
    saved(tmp_path, **VIT, reg_tokens=4, class_token=False, global_pool="avg")
    for variant in ("cls", "cls+mean"):
        with pytest.raises(EncoderError, match="no class token"):
            loaded(tmp_path, f"?{variant}")
    assert loaded(tmp_path, "?mean").dim == loaded(tmp_path, "?pool").dim == 24


def test_variants_of_a_convolutional_network(tmp_path: Path):
    saved(tmp_path, "resnet18", in_chans=3)
    np.testing.assert_allclose(
        loaded(tmp_path, "?mean").encode(TILES), loaded(tmp_path, "?pool").encode(TILES), atol=1e-5
    )
    with pytest.raises(EncoderError, match="no class token"):
        loaded(tmp_path, "?cls")


def test_variants_of_registered_encoders():
    assert facts_of("virchow2").dim == facts_of("virchow2?cls+mean").dim == 2560
    assert (facts_of("virchow2?cls").dim, facts_of("virchow2?cls").variant) == (1280, "cls")
    assert facts_of("uni?cls+mean").dim == 2048 and facts_of("uni?mean@abc").revision == "abc"
    assert facts_of("h0_mini?cls").dim == facts_of("h0_mini_cls").dim == 768
    for wrong, line in (("uni?best", "no variant"), ("conch?cls", "one kind"), ("resnet50?mean", "one kind"),
                        ("builtin?mean", "one kind")):  # fmt: skip
        with pytest.raises(EncoderError, match=line):
            facts_of(wrong)


# ---- ONNX ----
@pytest.mark.parametrize(
    ("architecture", "options", "variant"),
    [("vit_tiny_patch16_224", VIT | {"reg_tokens": 4}, "?cls+mean"), ("resnet18", {"in_chans": 3}, "?pool"),
     ("vit_tiny_patch16_224", VIT | {"dynamic_img_size": True}, "?cls"),
     ("vit_tiny_patch16_224", VIT | {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU"}, "?mean")],
)  # fmt: skip
def test_onnx_gives_the_vectors_of_torch(
    tmp_path: Path, cache: Path, architecture: str, options: dict[str, Any], variant: str
):
    pytest.importorskip("onnxruntime")
    saved(tmp_path, architecture, **options)
    torch_encoder, encoder = loaded(tmp_path, variant), loaded(tmp_path, variant, runtime="onnx")
    assert encoder.dim == torch_encoder.dim
    for tiles in (TILES, TILES[:1], np.full((2, 50, 40, 3), 90, np.uint8)):  # any batch, tiles of any size
        wanted = torch_encoder.encode(tiles)
        np.testing.assert_allclose(encoder.encode(tiles), wanted, atol=1e-4 * max(1, np.abs(wanted).max()))
    features = Features(encoder=f"timm:some/model{variant}", checkpoint=tmp_path, runtime="onnx")
    assert encoder.identity == encoder_identity(features, 0.5) != torch_encoder.identity
    import onnxruntime

    assert onnxruntime.__version__ in encoder.identity["runtime"]
    (file,) = cache.iterdir()
    before = file.stat().st_mtime_ns
    again = loaded(tmp_path, variant, runtime="onnx")  # not exported again
    assert file.stat().st_mtime_ns == before and [f.name for f in cache.iterdir()] == [file.name]
    np.testing.assert_array_equal(again.encode(TILES), encoder.encode(TILES))
    assert not list(tmp_path.glob("*.onnx"))  # the folder of the weights is an input of a study


@pytest.mark.parametrize(("kind", "image"), [("dinov2", 32), ("dinov2", 48), ("vit", 32), ("dinov3", 32)])
def test_onnx_of_transformers(tmp_path: Path, kind: str, image: int):
    """Also where position codes are resampled, which the exporter itself cannot."""
    pytest.importorskip("onnxruntime")
    import transformers as tf

    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    model = {
        "dinov2": lambda: tf.Dinov2WithRegistersModel(tf.Dinov2WithRegistersConfig(**size)),
        "vit": lambda: tf.ViTModel(tf.ViTConfig(**size, intermediate_size=48), add_pooling_layer=False),
        "dinov3": lambda: tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**size, intermediate_size=48, num_register_tokens=4)),
    }[kind]()
    model.eval().save_pretrained(tmp_path)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": image, "width": image}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    one, two = (
        load_encoder(Features(encoder="transformers:a/b?cls+mean", checkpoint=tmp_path, runtime=runtime), 0.5)
        for runtime in ("torch", "onnx")
    )
    np.testing.assert_allclose(two.encode(TILES), one.encode(TILES), atol=1e-4)


def test_threads_change_no_number_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same bytes for any number of cores."""
    pytest.importorskip("onnxruntime")
    import torch

    saved(tmp_path, **VIT)
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(loaded(tmp_path, runtime="onnx").encode(TILES))
    np.testing.assert_array_equal(*found)


def test_the_verb_writes_a_file_that_says_what_it_takes(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    import onnx
    import onnxruntime

    saved(tmp_path / "w")
    out = tmp_path / "out" / "model.onnx"
    command = ["encoder", "export", "timm:a/b?cls", "-o", str(out), "--checkpoint", str(tmp_path / "w")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "image (batch, 3, 32, 32)" in result.output and "opset 17" in result.output
    model = onnx.load(out)
    assert [o.version for o in model.opset_import if o.domain == ""] == [17]
    assert json.loads({p.key: p.value for p in model.metadata_props}["identity"])["variant"] == "cls"
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (image,), (vectors,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 3, 32, 32])
    assert (vectors.name, vectors.shape) == ("vectors", ["batch", 24])
    (found,) = session.run(None, {"image": TILES.transpose(0, 3, 1, 2).astype(np.float32) / 255})
    wanted = loaded(tmp_path / "w", "?cls").encode(TILES)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    result = CliRunner().invoke(app, ["encoder", "export", "builtin", "-o", str(out)])
    assert isinstance(result.exception, EncoderError)


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime")
    from histostudy.encoders import onnx as ours

    saved(tmp_path / "w")
    monkeypatch.setattr(ours, "_apart", lambda *_: 0.01)
    with pytest.raises(EncoderError, match=r"differ from torch's by 0\.01"):
        ours.export_onnx(loaded(tmp_path / "w"), tmp_path / "x.onnx")
    monkeypatch.setattr(ours, "MOST_BYTES", 10)
    with pytest.raises(EncoderError, match="an ONNX file holds 2"):
        ours.export_onnx(loaded(tmp_path / "w"), tmp_path / "x.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_without_onnx_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from importlib.metadata import PackageNotFoundError

    from histostudy.encoders import runtime

    def gone(package: str) -> str:
        raise PackageNotFoundError(package)

    saved(tmp_path)
    monkeypatch.setattr(runtime, "version", gone)
    with pytest.raises(EncoderError, match=r"not installed; pip install 'histostudy\[onnx\]'"):
        loaded(tmp_path, runtime="onnx")
