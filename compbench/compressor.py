"""The contract of a compression strategy: all that a plugin author imports.

A strategy is a :class:`Compressor`: a frozen set of hyper-parameters. For every :class:`Site` of a model it makes one
:class:`Codec`, which holds what the strategy learns there (a basis, a scale). The codec turns the rows that autograd
would have saved at one call into a :class:`Payload`, which gives them back in the backward pass.

This module knows neither models nor autograd: purely matrices of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compbench.readings import answers_of
from compbench.state import attributes_state, load_attributes


@dataclass(frozen=True)
class Site:
    """One place in a model where autograd saves an activation; all calls of a weight-tied module share it.

    Attributes:
        module: path of the module that was running, as in ``model.named_modules()``.
        role: readable kind of place, the module's name and the width, such as ``mlp_3072``.
        width: number of columns ``D`` of the rows that are encoded there.
        index: which of the activations of this role that the module saves in one call, from 0.
    """

    module: str
    role: str
    width: int
    index: int = 0

    @property
    def name(self) -> str:
        """A name that is unique in the model, such as ``block.mlp/mlp_3072`` or ``block.mlp/mlp_1536#1``."""
        return f"{self.module}/{self.role}" + (f"#{self.index}" if self.index else "")


@dataclass(frozen=True)
class SiteUse:
    """What a site did in the step that has ended.

    Attributes:
        site: the site.
        codec: its codec.
        calls: how many storages were encoded there.
        rows: rows ``N`` of one of them.
        itemsize: bytes of an element.
        propagating: whether an operator that saved them passes an error on to the gradients of activations; else it
            touches a weight's gradient alone.
        recomputed_bytes: bytes of all storages of the step, at whatever site, that autograd would have kept and that
            are computed again in the backward pass.
    """

    site: Site
    codec: Codec
    calls: int
    rows: int
    itemsize: int
    propagating: bool
    recomputed_bytes: int = 0


@dataclass(frozen=True)
class Recomputation:
    """What is computed again in the backward pass in the place of being kept; see :meth:`Compressor.recomputation`.

    Attributes:
        operators: ``cheap``: elementwise operators, norms and copies; ``expanding``: also linear layers whose output is
            wider than their input; ``any``: all that use no random numbers, within ``modules``.
        modules: globs over module paths, for ``any``; empty: the blocks that the model is made of.
        segment: calls of these modules that are recomputed together, for ``any``: their first input is kept.
        keep: patterns of sites that are kept though they could be recomputed.
        gives_way: whether what another strategy of a chain recomputes takes the place of this; else two are refused.
    """

    operators: Literal["cheap", "expanding", "any"]
    modules: tuple[str, ...] = ()
    segment: int = 1
    keep: tuple[str | int, ...] = ()
    gives_way: bool = False


class Payload(ABC):
    """What one call keeps of its rows until the backward pass.

    A payload is self-contained: it holds every tensor that it needs, and no later call or step changes them.
    """

    @abstractmethod
    def decode(self) -> Tensor:
        """The rows, ``(N, D)``, in the dtype and on the device of those that were encoded. May be called again."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that the payload keeps alive. A storage that payloads share is counted once.

        Of sparse or wrapped tensors their parts, which have storages: indices and values.
        """

    def opaque_bytes(self) -> int:
        """Bytes kept alive outside tensors (NumPy arrays, bytes objects); 0 unless a strategy says otherwise."""
        return 0

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """The weight gradient ``dY^T X`` of a linear layer whose input was encoded.

        Args:
            grad_output: ``dY``, ``(N, M)``.

        Returns:
            ``(M, D)``. A low-rank payload overrides this by ``(dY^T Z) Q^T``, which never rebuilds ``X``.
        """
        return grad_output.T @ self.decode()

    def rank(self) -> int | None:
        """Columns ``k`` of :meth:`factors`, told without rebuilding anything; None if there are none."""
        return None

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """The rows as a product ``Z Q^T``, or None where they are not kept as one.

        Linear layers compute with it at rank ``k``: their weight gradients, and an output that was not kept.

        Returns:
            ``Z``, ``(N, k)``, in the dtype of the rows, and ``Q``, ``(D, k)``. Payloads that share ``Q`` return the
            same tensor, not a copy: by that their calls are summed up before they are expanded.
        """
        return None

    def coefficients(self) -> Tensor | None:
        """The rows ``(N, k)``, in the dtype of those encoded, that a further strategy may compress, or None."""
        return None

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        """This payload with other coefficients; with None, what is left of it when somebody else keeps them.

        Raises:
            TypeError: this payload has no coefficients.
        """
        raise TypeError(f"{type(self).__name__} has no coefficients to replace")


class Dense(Payload):
    """The rows themselves, for a call that a strategy leaves as it is."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def decode(self) -> Tensor:
        """The rows, ``(N, D)``."""
        return self._rows

    def tensors(self) -> tuple[Tensor, ...]:
        """The rows."""
        return (self._rows,)


class Codec(ABC):
    """The state of one strategy at one site.

    ``encode`` runs inside the forward pass, without gradient and with autocast off. It must not synchronise with the
    host (``.item()``, ``.cpu()``, branching on values) and must draw random numbers from its own generator alone.
    What depends on values is decided once a step, in ``end_step``, by what :meth:`read` gives.
    """

    watches_gradients: ClassVar[bool] = False
    """Whether :meth:`observe_gradient` is to be called; it costs a hook for each operator."""

    @abstractmethod
    def encode(self, rows: Tensor) -> Payload:
        """Compresses the rows of one call, ``(N, D)``: only to be read, and a view of memory that is freed after it."""

    watches_operators: ClassVar[bool] = False
    """Whether :meth:`observe_operator` is to be called. What operators take is kept until then, at its full size: for
    calibration steps, after which a codec sets it to False on itself."""

    def observe_operator(self, payload: Payload, gradients_with: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        """Called in the backward pass before an operator that saved the payload's rows, if :attr:`watches_operators`.

        Args:
            payload: what ``encode`` gave for the rows.
            gradients_with: takes rows ``(N, D)`` and gives the gradients of all inputs of the operator that take one,
                as they would be if these had been its rows; with the same gradient of its output. Operators that
                save what they gave, not what they took, are left out.
        """

    def observe_gradient(self, payload: Payload, gradient: Tensor) -> None:
        """Called in the backward pass before a payload is decoded, if :attr:`watches_gradients` is set.

        Args:
            payload: what ``encode`` gave for the rows that an operator saved.
            gradient: ``(N, M)``, of that operator's output, whose rows are those of the ``(N, D)`` rows that were
                encoded; only to be read. Operators whose output has other rows than their input are left out.
        """

    def readings(self) -> Iterable[Tensor]:
        """The tensors whose values ``end_step`` has to know on the host: small ones, such as sums and flags.

        Asked for once when a step ends, and changes nothing. The values of all sites travel together, so that a GPU is
        waited for once a step, not once a site; ``end_step`` finds them by :meth:`read`.
        """
        return ()

    def read(self) -> list[float]:
        """The values of :meth:`readings`, one after the other, in its order; for use in ``end_step``, once.

        To be called before anything changes that ``readings`` looks at: where nobody has read them beforehand, as in a
        test that calls ``end_step`` by itself, they are read now.
        """
        return answers_of(self)

    def expected(self, readings: Sequence[Tensor]) -> Iterable[float]:
        """What :meth:`read` gives where tensors have no values, as under ``compbench plan``: by default ones.

        A codec overrides this whose memory depends on what it reads: a step then goes as the largest memory asks for.

        Args:
            readings: those of :meth:`readings`, of whose entries each needs a number.
        """
        return [1.0] * sum(reading.numel() for reading in readings)

    def inner(self) -> Iterable[Codec]:
        """The codecs that this one holds, if ``end_step`` ends their step too: their readings go with all others."""
        return ()

    def end_step(self) -> None:
        """Called once after each optimiser step's backward passes: the place to move a basis."""

    def discard_step(self) -> None:
        """Called instead of ``end_step`` when a step was abandoned or only probed: forget what it gathered.

        After a probe the engine puts :meth:`generators` back as well; after a step that raised it does not.
        """

    def skips_update(self) -> bool:
        """Whether the step that comes is to teach the codec alone: its gradients should not be applied.

        Asked for between steps. Who trains decides, and counts what was left out.
        """
        return False

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        """Bytes that ``calls`` calls of ``rows`` rows of ``itemsize`` bytes an element keep, shared bases included.

        The engine leaves a site raw where this is not less than ``calls * rows * D * itemsize``.
        None: not known beforehand, encode in any case.
        """
        return None

    def weight_gradient_operations(self, rows: int, outputs: int) -> int | None:
        """Multiplications of one call at a linear layer: all of ``encode``, and the payload's ``weight_gradient``.

        Where the layer's rows could be computed again instead, the engine compares this with ``rows * D * outputs``.

        Args:
            rows: ``N``.
            outputs: columns ``M`` of the layer's output.

        Returns:
            None where ``weight_gradient`` rebuilds the rows.
        """
        return None

    def coefficient_width(self) -> int | None:
        """Width ``k`` of the coefficients that payloads offer to a further strategy, or None if they offer none."""
        return None

    def state(self) -> Iterable[Tensor]:
        """The tensors that the codec itself holds between calls and between steps (basis, accumulators)."""
        return ()

    def generators(self) -> Iterable[torch.Generator]:
        """The generators that the codec draws from beside the one that it was given; probing puts them back."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """What a codec of the same strategy and site needs to go on bit-identically; asked for between steps.

        By default all attributes: tensors, numbers, strings, generators, lists, tuples and dictionaries of them, and
        the attributes of objects. The strategy and the site are left out, as :meth:`Compressor.codec` is given them.

        Raises:
            StateError: an attribute is of another kind; a codec with such attributes overrides this.
        """
        return attributes_state(self, given=(Compressor, Site))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave; called on a codec that was just made.

        Raises:
            StateError: the state is that of another kind of codec.
        """
        load_attributes(self, state, given=(Compressor, Site))

    def statistics(self) -> dict[str, float]:
        """Figures for the results, such as ``rank``, ``fidelity``, ``expansions``. Called between steps.

        Over sites, integers are added up as counts, and floating-point numbers averaged.
        """
        return {}


class Compressor(BaseModel, ABC):
    """A compression strategy and its hyper-parameters, which are the fields of this pydantic model.

    The field declarations (type, default, bounds, description) are all there is: validation of suites,
    ``compbench plugins NAME`` and the documentation come from them. The first line of the class's docstring is the
    summary that listings show.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    """The name that suites and :func:`compbench.compress` use."""

    exact: ClassVar[bool] = False
    """Whether what is rebuilt equals what was encoded bit for bit. Torch's own operators run then, and no others."""

    lossless: ClassVar[bool] = False
    """Whether gradients differ by rounding at most; those of exact strategies do not even that.

    Attention needs no recomputation where nothing is lost.
    """

    @abstractmethod
    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """Makes the codec of one site.

        Args:
            site: where the rows will come from.
            generator: a generator on the site's device, seeded for this strategy and site.

        Returns:
            The codec, or None if this strategy leaves the site as it is.
        """

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """Called once after each step, when every codec's ``end_step`` is done: for decisions that span sites.

        What is decided, such as a share of a common budget, is put into the codecs: a strategy has no state of its own.

        Args:
            sites: those at which the step encoded anything, in the order in which they were first met.
        """

    def unmatched_message(self, sites: Sequence[Site]) -> str:
        """What a user is told of site patterns among the settings that match nothing; empty if all match something.

        Args:
            sites: all sites of a model, asked for once they are known; see :func:`site_patterns.unmatched_message`.
        """
        return ""

    def recomputation(self) -> Recomputation | None:
        """What is to be recomputed rather than kept; asked for once a session. None: nothing."""
        return None

    def changes_the_graph(self) -> bool:
        """Whether the strategy wraps models, or has tensors recomputed."""
        return type(self).wrap is not Compressor.wrap or self.recomputation() is not None

    def wrap(self, model: nn.Module) -> AbstractContextManager[object]:
        """Changes how the model runs while a session is open; for strategies on the graph, such as checkpointing.

        The context manager must undo on exit whatever it did on entry.
        """
        return nullcontext()
