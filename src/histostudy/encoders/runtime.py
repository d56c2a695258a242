"""How a network runs: precision, torch or ONNX Runtime, compiled or not; and what of it is part of an identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from histostudy.errors import EncoderError

if TYPE_CHECKING:
    from torch import nn

    from histostudy.runtime_keys import RuntimeKeys

#: A network with so many two-dimensional convolutions is convolutional; a ViT has one.
CONVOLUTIONS = 4


@dataclass(frozen=True)
class Runtime:
    """How a network runs on a device.

    Attributes
    ----------
    device : str
        ``cpu`` or ``cuda[:i]``.
    precision : str
        ``float32``, ``bfloat16`` or ``float16``; the last two are autocast.
    engine : str
        ``torch`` or ``onnx``.
    compiled : bool
        By `torch.compile`.
    """

    device: str = "cpu"
    precision: str = "float32"
    engine: str = "torch"
    compiled: bool = False

    @classmethod
    def on(cls, device: str, keys: RuntimeKeys | None = None) -> Runtime:
        """The runtime that keys ask for on a device; without keys the default one."""
        cuda = device.startswith("cuda")
        precision = "auto" if keys is None else keys.precision
        if keys is not None and keys.runtime == "onnx":
            return cls("cpu", "float32", "onnx")
        if precision == "auto":
            precision = "bfloat16" if cuda else "float32"
        return cls(device, precision, "torch", keys is not None and keys.compile)

    def identity(self) -> dict[str, Any]:
        """What of it decides numbers: `precision`, and `runtime` where it is not plain torch."""
        cuda = self.device.startswith("cuda")
        name = self.precision if self.precision == "float32" else f"{self.precision}-autocast"
        if self.precision != ("bfloat16" if cuda else "float32"):  # the defaults, named without the device as ever
            name += "-cuda" if cuda else "-cpu"
        found: dict[str, Any] = {"precision": name}
        if self.engine == "onnx":
            found["runtime"] = f"onnxruntime {installed('onnxruntime')}, onnx {installed('onnx')}"
        elif self.compiled:
            found["runtime"] = f"torch.compile {version('torch')}"
        return found

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Autocast, or float32 that is float32: no TF32 where float32 was asked of a GPU."""
        import torch

        kind = torch.device(self.device).type
        if self.precision != "float32":
            with torch.autocast(kind, dtype=getattr(torch, self.precision)):
                yield
        elif kind == "cuda":
            cudnn = torch.backends.cudnn
            with cudnn.flags(
                enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
            ):
                yield
        else:
            yield


def installed(package: str) -> str:
    """Version of a package of the extra ``onnx``.

    Raises
    ------
    EncoderError
        If it is not installed.
    """
    from importlib.metadata import PackageNotFoundError

    try:
        return version(package)
    except PackageNotFoundError as bad:
        raise EncoderError(f"{package} is not installed", todo="pip install 'histostudy[onnx]'") from bad


def lay_out(module: nn.Module) -> nn.Module:
    """Put a convolutional network's weights in channels-last order, in which tiles come anyway.

    The numbers are the same to the bit, since torch reorders weights by the order of the tiles; it only need not do
    so at every call.
    """
    import torch

    convolutions = sum(isinstance(part, torch.nn.Conv2d) for part in module.modules())
    # its type knows one signature for tensors and modules alike
    return module.to(memory_format=torch.channels_last) if convolutions >= CONVOLUTIONS else module  # type: ignore[call-overload]
