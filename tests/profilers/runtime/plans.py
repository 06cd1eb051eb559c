"""Types that only a recent transformers can take apart."""

from __future__ import annotations

import pytest

OWN = ("llama", "qwen2", "gpt2")


def need_plan(model_type: str) -> None:
    """Skip a test where the oldest stated transformers runs, which has no plan of any type."""
    import transformers

    from cardlab.profilers.runtime.families.generic import plan_of

    if model_type not in OWN and plan_of(model_type) is None:
        pytest.skip(f"transformers {transformers.__version__} runs here, which has no plan of {model_type}")
