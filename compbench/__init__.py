"""compbench: activation-compression strategies for training recursive models, compared with evidence."""

from compbench.compressor import Codec, Compressor, Dense, Payload, Site
from compbench.hookspecs import hookimpl
from compbench.records import Batch, Metric, Reporter
from compbench.workloads.base import Data, Workload

__all__ = ["Batch", "Codec", "Compressor", "Data", "Dense", "Metric", "Payload", "Reporter", "Site", "Workload", "hookimpl"]
