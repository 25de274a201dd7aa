"""Imported once by the fork server of ranks.py."""

import deepspeed.ops.adam
import deepspeed.runtime.engine  # noqa: F401
import transformers.modeling_utils  # noqa: F401
