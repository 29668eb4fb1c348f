"""States as plain PyTorch hooks see them."""

import torch

from geomrl.models.decoder import find_decoder


def hooked_states(model, ids, rows=None, keep_graph=False):
    """The plain-hook twin: every layer's states of one forward, all of them or those at `rows`."""
    decoder = find_decoder(model)
    found = {}
    at = (rows.sequence, rows.position) if rows else slice(None)

    def keep(name):
        def hook(module, args, output):
            found[name] = (output if torch.is_tensor(output) else output[0])[at]

        return hook

    def keep_input(module, args, kwargs):
        found["0"] = (args[0] if args else kwargs["hidden_states"])[at]

    layers = model.get_submodule(decoder.layers)
    handles = [layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
    handles += [layer.register_forward_hook(keep(str(i + 1))) for i, layer in enumerate(layers)]
    handles.append(model.get_submodule(decoder.norm).register_forward_hook(keep("final")))
    with torch.set_grad_enabled(keep_graph):
        model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found
