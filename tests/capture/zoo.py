"""Small models and strategies that the capture tests share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench import Codec, Compressor, Dense, Payload, Site
from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings


class KeepCodec(Codec):
    def encode(self, rows: Tensor) -> Payload:
        return Dense(rows)


class Keep(Compressor):
    """Keeps the rows as they are."""

    name = "keep"
    exact = True

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        return KeepCodec()


class Copy(Compressor):
    """Keeps a copy of the rows, so that originals are freed and rebuilt."""

    name = "copy"

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        return CopyCodec()


class CopyCodec(Codec):
    def encode(self, rows: Tensor) -> Payload:
        return Dense(rows.clone())


class HalfPayload(Payload):
    def __init__(self, rows: Tensor) -> None:
        self.rows, self.dtype = rows.to(torch.float16), rows.dtype

    def decode(self) -> Tensor:
        return self.rows.to(self.dtype)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.rows,)


class HalfCodec(Codec):
    def encode(self, rows: Tensor) -> Payload:
        return HalfPayload(rows)


class Half(Compressor):
    """Keeps float16."""

    name = "half"

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        return HalfCodec()


class RecordingCodec(HalfCodec):
    def __init__(self) -> None:
        self.encoded: list[Tensor] = []
        self.steps = 0
        self.discarded = 0

    def encode(self, rows: Tensor) -> Payload:
        self.encoded.append(rows.clone())
        return super().encode(rows)

    def end_step(self) -> None:
        self.encoded.clear()
        self.steps += 1

    def discard_step(self) -> None:
        self.encoded.clear()
        self.discarded += 1


CODECS: dict[str, RecordingCodec] = {}


class Recording(Compressor):
    """Keeps float16 and remembers what it was given, by site."""

    name = "recording"

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        CODECS[site.name] = RecordingCodec()
        return CODECS[site.name]


class Nothing(Compressor):
    """Compresses nothing."""

    name = "nothing"
    exact = True

    def codec(self, site: Site, generator: torch.Generator) -> None:
        return None


class Attention(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    def __init__(self, width: int = 32, inner: int = 48) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Recursive(nn.Module):
    """One post-norm block, run ``calls`` times."""

    def __init__(self, calls: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.calls = calls
        self.attn = Attention(dropout=dropout)
        self.mlp = GatedMLP()

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(self.calls):
            z = z + x
            z = F.rms_norm(z + self.attn(z), z.shape[-1:])
            z = F.rms_norm(z + self.mlp(z), z.shape[-1:])
        return z


class Residual(nn.Module):
    """A small convolutional network with batch norm and in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.first(x)), inplace=True)
        y = F.relu(y + self.second(y), inplace=True)
        return self.head(y.mean(dim=(2, 3)))


def session_of(model: nn.Module, compressor: Compressor, **settings: object) -> Session:
    """A session in which nearly everything is large enough, on the route that the tests of ``--routes`` ask for.

    Copies are there to be equal bit by bit to what autograd does, and the session's own operators round otherwise:
    strategies that copy take the hooks unless they are told otherwise.
    """
    if isinstance(compressor, Copy):
        settings = {"routes": "hooks"} | settings
    return Session(model, compressor, CaptureSettings(minimum_elements=64, **settings))
