"""Conversion between a checkpoint's tensor names and transformers' names, in both directions.

transformers may rename tensors when it loads a checkpoint, and may fuse or split them: for example, the experts of a
mixture become one tensor. This module uses transformers' own conversion in both directions, for a few tensors at a
time.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import


class Conversion:
    """The mapping between a checkpoint's names and shapes and a model's names and shapes.

    Args:
        model: a model of the checkpoint's family; its weights may be on the meta device.
        files: the tensors of the checkpoint.

    Attributes:
        plain: name in the model -> name in the checkpoint, for tensors that are only renamed.
        unknown: names in the checkpoint without a tensor in the model, under the name that the model would use.
    """

    def __init__(self, model: "PreTrainedModel", files: WeightFiles) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        self.model, self.files = model, files
        self._transforms = get_model_conversion_mapping(model)
        renamings = [one for one in self._transforms if isinstance(one, WeightRenaming)]
        converters = [one for one in self._transforms if isinstance(one, WeightConverter)]
        there, prefix = model.state_dict(), model.base_model_prefix
        self.plain: dict[str, str] = {}
        self._merged: dict[str, list[str]] = {}  # the model's (first) name -> the checkpoint's, of all others
        self._made: dict[str, list[str]] = {}  # … and the names of all that conversion makes of these
        self.unknown: dict[str, str] = {}
        for name in self.files.location:
            key, source = rename_source_key(name, renamings, converters, prefix, there)
            if key not in there and name in there:
                key, source = rename_source_key(name, [], [], prefix, there)
            if key not in there:
                self.unknown[key] = name
            elif source is None:
                self.plain[key] = name
            else:
                self._merged.setdefault(key, []).append(name)
                converter = next(one for one in converters if source in one.source_patterns)
                first, *others = converter.target_patterns
                self._made[key] = [key, *(key.replace(first, other) for other in others)]
        self._converted = {made for keys in self._made.values() for made in keys}
        self._used = [one for one in self._transforms if one.was_used()]

    def missing(self, keys: Collection[str]) -> list[str]:
        """Return the names in the model for which the checkpoint has no tensor."""
        return sorted(key for key in keys if key not in self.plain and key not in self._converted)

    def names_of(self, keys: Collection[str]) -> list[str]:
        """Return the checkpoint's tensors from which these tensors of the model are made."""
        plain = [self.plain[key] for key in keys if key in self.plain]
        merged = [name for key, names in self._merged.items() if key in keys for name in names]
        return plain + merged

    def read(self, key: str) -> Tensor:
        """Read one tensor that is only renamed, memory-mapped and in the checkpoint's precision.

        Raises:
            LensflowError: the tensor is missing, or it is converted, not only renamed.
        """
        if key not in self.plain:
            raise LensflowError(f"model type '{self.model.config.model_type}': the checkpoint has no tensor '{key}'")
        return self.files.read(self.plain[key])

    def load(self, keys: Collection[str]) -> None:
        """Read some of the model's tensors into the model, in the model's precision.

        Raises:
            LensflowError: a tensor is missing or does not fit.
        """
        family = self.model.config.model_type
        if absent := self.missing(keys):
            raise LensflowError(f"model type '{family}': the checkpoint has no tensor '{absent[0]}'")
        self._load({name: self.files.read(name) for name in self.names_of(keys)})

    def _load(self, tensors: dict[str, Tensor]) -> None:
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig
        from transformers.utils import logging

        model = self.model
        config = LoadStateDictConfig(
            dtype=model.dtype, dtype_plan=model._get_dtype_plan(model.dtype), weight_mapping=self._transforms
        )
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # one for every layer says nothing
        try:
            info, _ = convert_and_load_state_dict_in_model(model, tensors, config)
        finally:
            if bars:
                logging.enable_progress_bar()
        model.requires_grad_(False)
        if odd := sorted({*info.conversion_errors, *(key for key, *_ in info.mismatched_keys)}):
            raise LensflowError(f"model type '{model.config.model_type}': tensor '{odd[0]}' has another shape")

    def to_checkpoint(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return some of the model's tensors under the checkpoint's names and in its shapes.

        Raises:
            LensflowError: transformers' conversion does not lead back to the checkpoint's names.
        """
        from transformers.core_model_loading import revert_weight_conversion

        found = {self.plain[key]: tensor for key, tensor in tensors.items() if key in self.plain}
        if merged := {key: tensor for key, tensor in tensors.items() if key in self._converted}:
            self.model._weight_conversions = self._used
            reverted = revert_weight_conversion(self.model, merged)
            wanted = {name for key, names in self._merged.items() if key in merged for name in names}
            if odd := sorted(wanted ^ set(reverted)):
                raise LensflowError(
                    f"model type '{self.model.config.model_type}': tensor '{odd[0]}' cannot be converted back; "
                    "this family is not supported"
                )
            found |= reverted
        return found

    def from_checkpoint(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's tensors that are made from some of the checkpoint's tensors; other needed tensors are
        read.

        Raises:
            LensflowError: the model has no tensor for a name.
        """
        keys = {self.plain[key]: key for key in self.plain}
        found = {keys[name]: tensor for name, tensor in tensors.items() if name in keys}
        merged = {name: key for key, names in self._merged.items() for name in names}
        for name in tensors:
            if name not in keys and name not in merged:
                raise LensflowError(f"tensor '{name}' is not in the model that transformers loads; use engine: vllm")
        for group in {merged[name] for name in tensors if name in merged}:
            whole = self._merged[group]
            self._load({name: tensors[name] if name in tensors else self.files.read(name) for name in whole})
            found |= {key: self.model.get_parameter_or_buffer(key).detach() for key in self._made[group]}
        return found
