"""compbench: activation-compression strategies for training recursive models, compared with evidence."""

from importlib.metadata import version

from compbench.capture import Compiled, Session, SiteReport, chosen_modules, compress
from compbench.chain import Chain, ChainCodec, ChainPayload
from compbench.compressor import Codec, Compressor, Dense, Payload, Recomputation, Site, SiteUse
from compbench.hookspecs import hookimpl
from compbench.records import Batch, Foresight, Metric, Observer, Reporter
from compbench.workloads.base import Data, Workload

__all__ = [
    "Batch",
    "Chain",
    "ChainCodec",
    "ChainPayload",
    "Codec",
    "Compiled",
    "Compressor",
    "Data",
    "Dense",
    "Foresight",
    "Metric",
    "Observer",
    "Payload",
    "Recomputation",
    "Reporter",
    "Session",
    "Site",
    "SiteReport",
    "SiteUse",
    "Workload",
    "chosen_modules",
    "compress",
    "hookimpl",
]
__version__ = version("compbench")
