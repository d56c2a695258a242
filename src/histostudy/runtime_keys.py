"""Keys of the study file about how an encoder runs: `precision`, `runtime`, `compile` of its features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from histostudy.tasks import Keys


class RuntimeKeys(Keys):
    """How an encoder runs; the defaults are what was run before these keys were."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the encoder's arithmetic. auto: bfloat16 on a GPU, float32 on the CPU."
    )
    runtime: Literal["torch", "onnx"] = Field(
        "torch", description="onnx: exported once and run by ONNX Runtime, on the CPU and in float32."
    )
    compile: bool = Field(
        False, description="torch.compile: a minute or more at the start of every job, then faster on a GPU."
    )

    @model_validator(mode="after")
    def _one_runtime(self) -> RuntimeKeys:
        if self.runtime == "onnx" and self.precision not in ("auto", "float32"):
            raise ValueError(f"runtime: onnx runs in float32, not {self.precision}")
        if self.runtime == "onnx" and self.compile:
            raise ValueError("runtime: onnx and compile: true: give one of them")
        return self


def runtime_label(keys: RuntimeKeys) -> str:
    """Suffix of the folder of features that another runtime made; empty for the defaults."""
    parts: list[str] = [keys.precision] if keys.precision != "auto" else []
    parts += ["onnx"] if keys.runtime == "onnx" else []
    parts += ["compiled"] if keys.compile else []
    return "".join(f"-{part}" for part in parts)
