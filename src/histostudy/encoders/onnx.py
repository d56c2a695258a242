"""An encoder as one ONNX file: exported, checked against torch, and run by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.encoders.base import Encoder, EncoderFacts, check_batch
from histostudy.encoders.checkpoint import Weights
from histostudy.encoders.runtime import Runtime, installed
from histostudy.encoders.vision import VisionEncoder, identity_of, scaled, transform_of
from histostudy.errors import EncoderError
from histostudy.files import atomic, digest_of

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

OPSET = 17
#: Largest difference between ONNX Runtime and torch, as a share of the largest number of the vectors (or of 1).
TOLERANCE = 1e-4
#: What one ONNX file (a protobuf message) holds, with room for the graph.
MOST_BYTES = 1_900_000_000


def export_onnx(encoder: VisionEncoder, path: str | Path) -> float:
    """Write an encoder as ONNX and check it against torch.

    Its input ``image`` is float32 (batch, 3, input_px, input_px), RGB in 0 to 1, of any batch: normalisation is part
    of the graph, resizing is not. Its output ``vectors`` is float32 (batch, dim). Its metadata hold the identity.

    Parameters
    ----------
    encoder : VisionEncoder
        On the CPU, in float32, not compiled.
    path : path
        File to write; it appears only if it agrees with torch.

    Returns
    -------
    float
        Largest difference to torch, on drawn images in batches of 1 and 3, as a share of the largest number.

    Raises
    ------
    EncoderError
        If onnx is not installed, the network is too large for one file, has an operation that opset 17 lacks, or the
        file's vectors differ by more than `TOLERANCE`.
    """
    import torch

    installed("onnx")
    installed("onnxruntime")
    size, path = encoder.transform.input_px, Path(path)
    held = sum(t.numel() * t.element_size() for t in encoder.module.state_dict().values())
    if held > MOST_BYTES:
        raise EncoderError(
            f"{encoder.name} has {held / 1e9:.1f} GB of weights and an ONNX file holds 2", todo="use runtime: torch"
        )
    whole = _whole(encoder)
    drawn = torch.from_numpy(np.random.default_rng(0).random((3, 3, size, size), np.float32))
    with atomic(path) as temporary:
        try:
            with (
                warnings.catch_warnings(), torch.inference_mode(), redirect_stdout(StringIO()),
                _fixed_places(whole, drawn[:2]),
            ):  # fmt: skip
                warnings.simplefilter("ignore")  # the tracer warns of every shape that it takes for constant
                torch.onnx.export(
                    whole, (drawn[:2],), str(temporary), dynamo=False, opset_version=OPSET, input_names=["image"],
                    output_names=["vectors"], dynamic_axes={"image": {0: "batch"}, "vectors": {0: "batch"}},
                )  # fmt: skip
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError) as bad:
            reason = " ".join(str(bad).split())[:160]
            raise EncoderError(f"{encoder.name} cannot be exported ({reason})", todo="use runtime: torch") from bad
        _describe(temporary, encoder)
        worst = max(_apart(whole, session_of(temporary), drawn[:n]) for n in (1, 3))
        if not worst <= TOLERANCE:
            raise EncoderError(
                f"vectors of the ONNX file of {encoder.name} differ from torch's by {worst:.2g} of the largest",
                todo="use runtime: torch, and report it as a bug",
            )
    return worst


def _whole(encoder: VisionEncoder) -> Any:
    """Normalisation and network as one module."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder.module

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return encoder.normalised_vectors(image).float()

    return Whole().eval()


@contextmanager
def _fixed_places(whole: Any, images: Any) -> Iterator[None]:
    """Position codes as they are at this size: transformers resamples them in every trace, which ONNX cannot."""
    parts = [part for part in whole.modules() if hasattr(part, "interpolate_pos_encoding")]
    codes: dict[int, Any] = {}

    def watched(part: Any) -> Any:
        method = part.interpolate_pos_encoding

        def call(*args: Any, **options: Any) -> Any:
            if id(part) not in codes:
                codes[id(part)] = method(*args, **options)
            return codes[id(part)]

        return call

    for part in parts:
        part.interpolate_pos_encoding = watched(part)
    try:
        whole(images)  # not traced: what it notes is what it uses
        yield
    finally:
        for part in parts:
            del part.interpolate_pos_encoding


def _describe(path: Path, encoder: VisionEncoder) -> None:
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model)
    facts = {"identity": json.dumps(encoder.identity, sort_keys=True), "input": "RGB, 0 to 1, float32, NCHW"}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)


def _apart(whole: Any, session: onnxruntime.InferenceSession, images: Any) -> float:
    import torch

    with torch.inference_mode():
        wanted = whole(images).numpy()
    (found,) = session.run(None, {"image": images.numpy()})
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


def session_of(path: str | Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, with as many threads as torch uses."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cache_folder() -> Path:
    """Where exported encoders are kept: ``$XDG_CACHE_HOME/histostudy/onnx``, by default below ``~/.cache``.

    Not beside the weights: their folder is an input of a study, and a new file there would make it run again.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "histostudy" / "onnx"


class OnnxEncoder(Encoder):
    """A network run by ONNX Runtime; exported when it is first asked for, and kept.

    Parameters
    ----------
    facts : EncoderFacts
        Of the encoder.
    weights : Weights
        Found by `histostudy.encoders.checkpoint.find_weights`.

    Raises
    ------
    EncoderError
        As `VisionEncoder` and `export_onnx`.
    """

    def __init__(self, facts: EncoderFacts, weights: Weights) -> None:
        self.name = facts.name
        self.identity = identity_of(facts, weights, runtime=Runtime(engine="onnx"))
        self.transform = transform_of(facts, weights)
        made = digest_of([self.identity, facts.options, facts.architecture, weights.config, OPSET, installed("torch")])
        path = cache_folder() / f"{made}.onnx"
        if not path.is_file():
            apart = export_onnx(VisionEncoder(facts, weights), path)
            logger.info("%s: exported to %s; differs from torch by at most %.1g", facts.name, path, apart)
        self.session = session_of(path)
        self.dim = int(self.session.get_outputs()[0].shape[1])

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Vectors of a batch of uint8 (B, H, W, 3) tiles, as float32 (B, dim)."""
        import torch

        check_batch(batch)
        with torch.inference_mode():
            image = scaled(torch.from_numpy(np.ascontiguousarray(batch)), self.transform.input_px)
        (vectors,) = self.session.run(None, {"image": image.contiguous().numpy()})
        return vectors
