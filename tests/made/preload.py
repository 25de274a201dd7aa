"""Imported once by the fork server of ranks.py: all that a rank would import by itself, and what it would ask the machine."""

import gc

import cpuinfo
import deepspeed.module_inject.auto_ep_layer
import deepspeed.ops.adam
import deepspeed.runtime.engine
import deepspeed.runtime.superoffload.superoffload_stage3
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - brings torch._dynamo and torch._inductor: a second
import pandas  # noqa: F401 - pyarrow asks for it when it meets numpy
import transformers.modeling_utils
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama  # noqa: F401

import train.run.loop  # noqa: F401

# DeepSpeed asks three times what the processor is when its CPU Adam is loaded, and each time a new process finds out for a second
_processor = cpuinfo.get_cpu_info()
cpuinfo.get_cpu_info = lambda: dict(_processor)

gc.freeze()  # what is here for good is looked through by no rank's collector, and stays shared memory
