"""Networks that can be pretrained: by name, each giving a class token and patch tokens.

Weights are saved under the names timm gives them, so an encoder made here is a timm model wherever timm is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.errors import EncoderError
from histostudy.registry import Registry

#: Name to builder: takes the side of its input (px) and the options of the study file.
STUDENTS: Registry[Callable[..., Student]] = Registry("network")


class Student(nn.Module):
    """A network to pretrain.

    Attributes
    ----------
    dim : int
        Width of a token.
    patch : int
        Side of what a patch token stands for, px; crops are whole multiples of it.
    maskable : bool
        Whether patches can be hidden from it, as iBOT asks.
    config : dict
        What goes into `config.json` beside its weights.
    """

    dim: int
    patch: int = 1
    maskable: bool = False
    config: dict[str, Any]

    def forward_tokens(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class token (B, dim) and patch tokens (B, P, dim) of normalised images (B, 3, H, W).

        A network without a class token gives the mean of its patch tokens. `masks`, bool (B, P), hides patches.
        """
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """What is released: tensors by name."""
        return {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load what `weights` gave."""
        self.load_state_dict(weights)


class TimmViT(Student):
    """A vision transformer of timm: any size of crop, register tokens, masked patches.

    Parameters
    ----------
    architecture : str
        timm's name.
    size : int
        Side of its input, px.
    arguments : dict
        Of timm's model.
    """

    maskable = True

    def __init__(self, architecture: str, size: int, arguments: dict[str, Any], drop_path: float = 0.0) -> None:
        super().__init__()
        arguments = {"img_size": size, **arguments, "dynamic_img_size": True}
        self.network = _create(architecture, arguments | {"drop_path_rate": drop_path})
        self.dim = int(self.network.num_features)
        self.patch = int(self.network.patch_embed.patch_size[0])
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.config = {"architecture": architecture, "model_args": arguments}
        self._resized: dict[tuple[int, int], Tensor] = {}

    def forward_tokens(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class token (B, dim) and patch tokens (B, P, dim)."""
        net = self.network
        grid = net.patch_embed(images)  # (B, rows, columns, dim)
        rows, columns = grid.shape[1:3]
        x = grid.flatten(1, 2)
        if masks is not None:
            x = torch.where(masks[:, :, None], self.mask_token.to(x.dtype), x)
        prefix = [token.expand(len(x), -1, -1) for token in (net.cls_token, net.reg_token) if token is not None]
        places = net.pos_embed
        own = net.num_prefix_tokens if not net.no_embed_class else 0
        at = torch.cat([places[:, :own], self._places(places[:, own:], rows, columns)], dim=1)
        # where the class token has no place of its own, only patches are placed
        x = torch.cat([*prefix, x + at], dim=1) if net.no_embed_class else torch.cat([*prefix, x], dim=1) + at
        x = net.norm_pre(net.pos_drop(x))
        for block in net.blocks:
            x = block(x)
        x = net.norm(x)
        patches = x[:, net.num_prefix_tokens :]
        return (x[:, 0] if net.cls_token is not None else patches.mean(dim=1)), patches

    def _places(self, places: Tensor, rows: int, columns: int) -> Tensor:
        """Position codes of a grid of another size: a matrix product, whose gradient has one order of summing."""
        side = round(places.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return places
        if (rows, columns) not in self._resized:
            whole = torch.eye(side * side).view(side * side, 1, side, side)
            # as timm resizes them when the encoder is used
            small = F.interpolate(whole, (rows, columns), mode="bicubic", antialias=True, align_corners=False)
            self._resized[rows, columns] = small.flatten(1).T.contiguous()
        matrix = self._resized[rows, columns].to(places)
        return torch.einsum("pq,bqd->bpd", matrix, places)

    def weights(self) -> dict[str, Tensor]:
        """What is released: timm's tensors by timm's names."""
        return {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load what `weights` gave."""
        self.network.load_state_dict(weights)


class TimmConv(Student):
    """A convolutional network of timm: patch tokens are the places of its last map, the class token their mean."""

    def __init__(self, architecture: str, size: int, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.network = _create(architecture, arguments)
        self.dim = int(self.network.num_features)
        self.config = {"architecture": architecture, "model_args": arguments}

    def forward_tokens(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class token (B, dim) and patch tokens (B, P, dim)."""
        tokens = self.network.forward_features(images).flatten(2).transpose(1, 2)
        return tokens.mean(dim=1), tokens

    def weights(self) -> dict[str, Tensor]:
        """What is released: timm's tensors by timm's names."""
        return {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load what `weights` gave."""
        self.network.load_state_dict(weights)


def build_student(name: str, size: int, options: dict[str, Any] | None = None) -> Student:
    """Build a network by its name in a study file, untrained.

    Parameters
    ----------
    name : str
        Of `STUDENTS`, or ``timm:<architecture>``.
    size : int
        Side of its input, px.
    options : dict, optional
        Of the builder.

    Raises
    ------
    ConfigError
        If the name is not known.
    EncoderError
        If an option is not, or the network cannot be built so.
    """
    if name.startswith("timm:"):
        return _any_timm(name[5:], size, dict(options or {}))
    builder = STUDENTS[name]
    try:
        student = builder(size, **(options or {}))
    except TypeError as bad:
        raise EncoderError(f"network {name}: {bad}", todo="correct pretrain.options") from bad
    student.config |= {"network": name, "options": dict(options or {})}
    return student


def _create(architecture: str, arguments: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError, ZeroDivisionError) as bad:
        raise EncoderError(
            f"timm cannot build {architecture}: {bad}", todo="correct pretrain.network or pretrain.options"
        ) from bad


def _gives_a_map(network: Any, architecture: str, size: int) -> bool:
    try:
        with torch.no_grad():
            found = network.eval().forward_features(torch.zeros(2, 3, size, size))
    except (RuntimeError, TypeError, ValueError, AssertionError) as bad:
        reason = " ".join(str(bad).split())[:160]
        raise EncoderError(
            f"{architecture} takes no tiles of {size} px ({reason})", todo="name another network"
        ) from bad
    return isinstance(found, torch.Tensor) and found.ndim == 4 and found.shape[1] == network.num_features


def _any_timm(architecture: str, size: int, arguments: dict[str, Any]) -> Student:
    from timm.models.vision_transformer import VisionTransformer

    probe = _create(architecture, arguments)
    student: Student
    if type(probe) is VisionTransformer:  # those derived from it go through their tokens in other ways
        student = TimmViT(architecture, size, arguments)
    elif not isinstance(probe, VisionTransformer) and _gives_a_map(probe, architecture, size):
        student = TimmConv(architecture, size, arguments)
    else:
        raise EncoderError(
            f"{architecture} is neither a plain vision transformer nor a convolutional network",
            todo="name another network",
        )
    student.config |= {"network": f"timm:{architecture}", "options": arguments}
    return student


def _register_vit(name: str, architecture: str) -> None:
    @STUDENTS.register(name)
    def build(
        size: int,
        *,
        patch: int | None = None,
        registers: int = 0,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        drop_path: float = 0.0,
    ) -> Student:
        given = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
        arguments: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if registers:
            arguments |= {"reg_tokens": registers, "no_embed_class": True}
        return TimmViT(architecture, size, arguments, drop_path)


def _register_conv(name: str, architecture: str) -> None:
    @STUDENTS.register(name)
    def build(size: int) -> Student:
        return TimmConv(architecture, size, {})


for _size in ("tiny", "small", "base"):
    _register_vit(f"vit_{_size}", f"vit_{_size}_patch16_224")
for _name, _architecture in (
    ("resnet18", "resnet18"),
    ("resnet34", "resnet34"),
    ("resnet50", "resnet50"),
    ("mobilenet_small", "mobilenetv3_small_100"),
    ("mobilenet_large", "mobilenetv3_large_100"),
):
    _register_conv(_name, _architecture)


@STUDENTS.register("small_cnn")
def _small_cnn(size: int) -> Student:
    from histostudy.encoders.pretraining.small_student import SmallStudent

    return SmallStudent()
