"""``memory_budget``: keeps what torch's partitioner chooses within a budget, and computes the rest again.

The forward of each chosen module is compiled as one graph together with its backward. A knapsack decides which values
of that graph are kept, so that those that are dear to compute again come first. The budget holds for each graph, and so
for each call of a module; it is no number of bytes:

- ``1`` keeps what the partitioner would keep without a budget. That is less than autograd keeps already.
- ``0`` keeps what the module is called with alone, as checkpointing does.
- ``0.5`` keeps half of the difference between the two, as torch estimates it: a tenth more or less.

Source: ``torch._functorch.config.activation_memory_budget``, as described in "Current and New Activation Checkpointing
Techniques in PyTorch" (PyTorch's blog, 2025). It departs from that thus:

- Operators are neither decomposed nor fused: the graph runs operator by operator, by the same kernels as without a
  graph. So neither a C++ compiler nor Triton is needed, a ledger sees all memory that is taken, and gradients are those
  of autograd bit for bit. Inductor's kernels take their memory where no ledger sees it; they are not offered.
- Random numbers are never drawn again. Torch does so at low budgets: dropout then has another mask in the backward pass
  than it had, and gradients are wrong. Here masks are kept.
- Batch norm's outputs are kept: computed again, they would need running statistics that have changed since.

Some sums are formed in another order than by autograd, and gradients then agree up to rounding alone. Under autocast
autograd adds up in 16 bits what a module's calls give for a weight; here that is done in the weight's own type. What is
used both inside and beside a compiled module gets the gradient of the module's inside as one summand.

A module that torch can't make one graph of is refused, with torch's reason, when it first runs with gradients. So are
codecs behind this strategy for what compiled modules save, which has no site; they may have other sites.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import fx, nn
from torch.fx.graph import CodeGen

from compbench import Codec, Compiled, Compressor, Site, chosen_modules, hookimpl
from compbench.errors import UnsupportedError

_NEXT_TO_NOTHING = 1e-9
"""A budget at which the knapsack keeps nothing of its own choice, but what it has to."""


class MemoryBudget(Compressor):
    """Exact: keeps a share of what torch.compile would keep, chosen by a knapsack, and computes the rest again."""

    name: ClassVar[str] = "memory_budget"
    exact: ClassVar[bool] = True

    budget: float = Field(
        0.5,
        ge=0,
        le=1,
        description="0: keep what a module is called with; 1: what costs no time to keep; between: of the difference",
    )
    solver: Literal["dp", "greedy", "ilp"] = Field(
        "dp", description="of the knapsack: dynamic programming, largest gain first, or an integer linear program"
    )
    modules: tuple[str, ...] = Field(
        (),
        description="globs over the paths of the modules that are compiled; none: the blocks the model is made of; "
        "'': the model as a whole",
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None

    def wrap(self, model: nn.Module) -> AbstractContextManager[object]:
        return self._wrapped(model)

    @contextmanager
    def _wrapped(self, model: nn.Module) -> Iterator[None]:
        named = dict(model.named_modules())
        with ExitStack() as stack:
            for path in _outermost(model, chosen_modules(model, self.modules)):
                module = named[path]
                graphs = _graphs.setdefault(module, {})
                if self not in graphs:
                    graphs[self] = Compiled(self._compile, path)
                stack.enter_context(graphs[self].runs(module))
            yield

    def _compile(self, graph: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        """Makes a function of a graph, with a backward that computes again what is beyond the budget."""
        # Here and not above: it takes a second to import, which every use of compbench would pay.
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch import config

        settings = {
            "activation_memory_budget": self.budget,
            "activation_memory_budget_solver": self.solver,
        }
        with config.patch(settings):
            make = aot_autograd(fw_compiler=_by_operators, bw_compiler=_by_operators, partition_fn=_partition)
            return make(graph, examples)


_graphs: WeakKeyDictionary[nn.Module, dict[MemoryBudget, Compiled]] = WeakKeyDictionary()
"""The graphs of modules, by settings: a session that pauses finds them again."""


def _outermost(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Those of the chosen modules that are called and are not part of another one.

    Raises:
        UnsupportedError: none of them is ever called.
    """
    named = dict(model.named_modules())
    called = [path for path in paths if type(named[path]).forward is not nn.Module.forward]
    if not called:
        raise UnsupportedError(
            f"module '{paths[0]}' is never called itself, being a container; choose its members ('{paths[0]}.*')"
        )
    return [path for path in called if not any(path != o and path.startswith(f"{o}." if o else "") for o in called)]


def _partition(joint: fx.GraphModule, inputs: Any, **options: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Parts a graph into forward and backward, by torch's partitioner.

    Raises:
        UnsupportedError: random numbers would be drawn again in the backward pass.
    """
    from torch._functorch import config
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch.utils.checkpoint import CheckpointPolicy

    kept = [node for node in joint.graph.nodes if _is_random(node) or _stands_for_a_change(node)]
    for node in kept:
        node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    # At 0 torch takes the inputs and asks no further.
    least = kept and config.activation_memory_budget == 0
    with config.patch(activation_memory_budget=_NEXT_TO_NOTHING) if least else nullcontext():
        forward, backward = min_cut_rematerialization_partition(joint, inputs, **options)
    again = next((node for node in backward.graph.nodes if _is_random(node)), None)
    if again is not None:
        raise UnsupportedError(
            f"torch's partitioner would run {again.target} again in the backward pass, with other random numbers; "
            "take a higher budget, or leave the module out"
        )
    return forward, backward


def _is_random(node: fx.Node) -> bool:
    """Whether an operator draws random numbers; attention without dropout does not, though torch marks it so."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = node.kwargs | dict(zip((argument.name for argument in target._schema.arguments), node.args, strict=False))
    defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
    return bool(given.get("dropout_p", defaults.get("dropout_p", True)))


def _stands_for_a_change(node: fx.Node) -> bool:
    """Whether an operator stands for one that changes its arguments in place, as batch norm does."""
    return isinstance(node.target, torch._ops.OpOverload) and "_functional" in node.target._schema.name


class _TakesList(CodeGen):
    """Writes graphs as functions of a list, which they clear: what is in it can be freed as soon as it was used."""

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, **options: Any) -> str:
        """The head of the function."""
        names = [found[0] for variable in free_vars if (found := re.match(r"\w+", variable)) and found[0] != "self"]
        taken = f"\n    {', '.join(names)}, = arguments\n    arguments.clear()" if names else ""
        return f"def forward(self, arguments):{taken}"


def _by_operators(graph: fx.GraphModule, examples: Sequence[Any]) -> Callable[[list[Any]], Any]:
    """A function that runs a graph operator by operator."""
    graph.graph.set_codegen(_TakesList())
    graph.recompile()

    def run(arguments: list[Any]) -> Any:
        return graph.forward(arguments)

    run._boxed_call = True  # type: ignore[attr-defined]  # tells torch that it takes a list
    return run


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``memory_budget``."""
    return [MemoryBudget]
