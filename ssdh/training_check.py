"""Mistakes in the parameters of training that only a network or a model file can tell: found before any stage runs."""

from pathlib import Path

from ssdh.backbones import BackboneParams, build_network, feature_size, freeze, resolve_layer, without_storage
from ssdh.files import is_placeholder
from ssdh.image_params import ImageParams
from ssdh.training_params import TrainParams


def check_training(params: TrainParams, backbone: BackboneParams, images: ImageParams, bits: int) -> None:
    """Raise ParameterError or DataError where `train.freeze_until` or `train.init_file` does not fit.

    Imports torch only where one of them is set.
    """
    if params.finetune and params.freeze_until is not None:
        layer = resolve_layer(backbone, images.weights)
        freeze(without_storage(lambda: build_network(backbone.arch, layer, images.size)), params.freeze_until)
    if not is_placeholder(Path(params.init_file)):
        from ssdh.network import initial_hashnet
        from ssdh.trained import check_same_backbone

        check_same_backbone(Path(params.init_file), backbone, images)
        layer = resolve_layer(backbone, images.weights)
        dim = feature_size(backbone.arch, layer, images.size)
        network = without_storage(lambda: build_network(backbone.arch, layer, images.size)) if params.finetune else None
        initial_hashnet(dim, bits, 0, params.init_file, network, params.power)
