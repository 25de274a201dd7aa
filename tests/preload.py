"""Imported once by the fork server of tests/ranks.py."""

import deepspeed.ops.adam  # noqa: F401
import deepspeed.runtime.engine  # noqa: F401
import transformers.modeling_utils  # noqa: F401
