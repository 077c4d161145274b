"""The generation settings of lm-eval's tasks. No lm-eval here, which takes seconds to import."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lensflow.errors import LensflowError
from lensflow.schema.decoding import Decoding

# Names of the longest answer in tokens, the first of which counts; lm-eval's default.
_LONGEST, _TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"), 256
_KNOWN = frozenset({"until", "do_sample", "temperature", "top_p", *_LONGEST})
_OFF = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1, "top_k": 0}  # values that change nothing


def decoding(settings: Mapping[str, Any]) -> Decoding:
    """Read the settings, with the defaults and names that they have in lm-eval.

    Raises:
        LensflowError: one would be ignored, or cannot be.
    """
    until = settings.get("until") or []
    sampled = settings.get("do_sample", settings.get("temperature", 0.0) > 0) and settings.get("temperature", 1.0) > 0
    for name, value in settings.items():
        off = value is None or _OFF.get(name) == value or (name == "top_k" and not sampled)
        if name not in _KNOWN and not off:
            raise LensflowError(f"generation_kwargs: '{name}' is not supported; remove it")
    try:
        return Decoding(
            max_new_tokens=next((settings[name] for name in _LONGEST if settings.get(name) is not None), _TOKENS),
            stop=tuple([until] if isinstance(until, str) else until),
            temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
            top_p=float(settings.get("top_p", 1.0)),
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        raise LensflowError(
            f"generation_kwargs: {wrong['input']!r:.60} for '{wrong['loc'][0]}': {wrong['msg']}; correct it"
        ) from None
