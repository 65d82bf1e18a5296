"""From the searched mixture to the network of a policy."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np

from tfmpq.errors import UsageError
from tfmpq.policy.policy import Policy
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner

_ADVICE = "Give --weights to start from a float network instead."


def restrict(model: keras.Model, policy: Policy) -> keras.Model:
    """Keep one candidate of every quantizer, with the step that the search learned for it.

    Args:
        model: Searched quantized model.
        policy: Bits by layer and tensor.

    Returns:
        A new model with the weights of `model`, without logits.

    Raises:
        UsageError: The policy asks for bits that were not searched.
    """
    wrappers = quantize_wrappers(model)
    refuse_unsearched(policy, dynamic=all(wrapper.output_quantizer is None for wrapper in wrappers))
    chosen = {w.name: _config(w, policy) for w in quantize_wrappers(model)}

    @cache  # one copy of a quantizer that several tensors share
    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, QuantizeWrapper):
            return type(layer).from_config(layer.get_config())
        return QuantizeWrapper(type(layer.layer).from_config(layer.layer.get_config()), chosen[layer.name])

    restricted = keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        copy = restricted.get_layer(layer.name)
        if inner(layer).weights:
            inner(copy).set_weights(inner(layer).get_weights())
        if isinstance(layer, QuantizeWrapper):
            _copy_steps(layer, copy)
    return restricted


def refuse_unsearched(policy: Policy, dynamic: bool) -> None:
    """Refuse a policy that a search cannot have learned the steps for.

    Args:
        policy: The policy.
        dynamic: Whether activations were float in the search.

    Raises:
        UsageError: It has 16-bit activations, or they are of the other kind.
    """
    if policy.dynamic != dynamic:
        asked, searched = ("dynamic" if so else "integers" for so in (policy.dynamic, dynamic))
        raise UsageError(
            "A policy has the kind of activations that was searched. Received: activations that are "
            f"{asked}, for {policy.model} as it was searched, where they are {searched}. {_ADVICE}"
        )
    if policy.wide:
        raise UsageError(
            "A search learns no steps for 16-bit activations. Received: a policy with activations: "
            f"{policy.activations}, for {policy.model} as it was searched. {_ADVICE}"
        )


def _config(wrapper: QuantizeWrapper, policy: Policy) -> MixedPrecisionQuantizeConfig:
    config = wrapper.quantize_config
    weight_bits, output_bits = config.weight_bits, config.output_bits
    if weight_bits:
        weight_bits = (policy.weight_bits[wrapper.name],)
    if output_bits and config.trainable_output_step:
        output_bits = (policy.activation_bits([wrapper.name])[wrapper.name],)
    for what, kept, candidates in (
        ("weights", weight_bits, config.weight_bits),
        ("output", output_bits, config.output_bits),
    ):
        if kept and kept[0] not in candidates:
            raise UsageError(
                f"A policy uses bit-widths that were searched. Received: {kept[0]} bits for the {what} of "
                f"{wrapper.name}, searched: {candidates}. {_ADVICE}"
            )
    return MixedPrecisionQuantizeConfig(
        weight_bits,
        output_bits,
        config.output_signed,
        config.trainable_output_step,
        input_grid=config.input_grid,
        patch=config.patch,
    )


def _copy_steps(source: QuantizeWrapper, copy: QuantizeWrapper) -> None:
    learned = {kind: (old, variables) for kind, old, variables in source.quantizers}
    for kind, new, variables in copy.quantizers:
        old, old_variables = learned[kind]
        steps = np.asarray(old_variables["log_step"])
        variables["log_step"].assign(np.asarray([steps[old.bits.index(new.bits[0])]]))
