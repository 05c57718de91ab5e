"""``loract``: a fresh low-rank decomposition at every call.

Keeps coefficients ``Z = X Q`` and a basis ``Q`` for each call: nothing goes stale, and every call pays for a basis in
bytes and for a QR decomposition in time.

Error: biased and fresh: the basis comes from the call that it encodes. The statistics have its ``fidelity``, measured
in one step of ten.

Source: LoRAct (Shi et al., arXiv 2509.23472), its sampling-based orthogonal decomposition: ``k`` columns of ``X`` are
sampled, ``Q = Orth(X^T X_sampled)``, without oversampling or further power iterations. It departs from the source
thus:

- Columns are sampled also where there are fewer rows than columns; LoRAct samples rows then. Such a call is encoded
  no less accurately, only with more arithmetic.
- Every activation is encoded where autograd saves it. LoRAct places itself around whole layers or norms, recomputes
  inside them, and decomposes in worker threads.
- Columns are drawn from the site's own generator, on its device; LoRAct uses the global one, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._decomposition import SELDOM, Fidelity, rank_figures
from ._streams import CallStream
from ._subspace import LowRank, basis_bytes, cross_product, low_rank_operations, orthonormal, project


class LoRAct(Compressor):
    """Fresh randomised low-rank decomposition at every call."""

    name: ClassVar[str] = "loract"

    rank: int = Field(128, ge=1, description="rank k; a narrower site uses its width")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return LoRActCodec(self, site.width, generator)


class LoRActCodec(Codec):
    """Learns nothing: every payload has its own basis."""

    def __init__(self, settings: LoRAct, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.k = min(settings.rank, width)
        self._stream = CallStream(generator)
        self._fidelity = Fidelity(every=SELDOM)

    def encode(self, X: Tensor) -> Payload:
        columns = torch.randperm(self.D, device=X.device, generator=self._stream.next())[: self.k]
        Q = orthonormal(cross_product(X, X[:, columns]))  # X^T X_sampled: (D, k)
        Z = project(X, Q)  # (N, k)
        self._fidelity.add(X, Z)
        return LowRank(Z, Q)

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors()

    def end_step(self) -> None:
        self._stream.end_step()
        self._fidelity.end_step(iter(self.read()))

    def discard_step(self) -> None:
        self._stream.discard_step()
        self._fidelity.discard_step()

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * (rows * self.k * itemsize + basis_bytes(self.D, self.k, itemsize))

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return low_rank_operations(rows, self.D, self.k, outputs, products=2)

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        return self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        return rank_figures(self.settings.rank, self.D) | self._fidelity.figures()


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``loract``."""
    return [LoRAct]
