"""The classes of a data set, as TransFusion's head treats them: names, small ones, how near boxes may be."""

import logging
from collections.abc import Sequence
from typing import Optional

from mmengine.logging import print_log

# The classes of data sets in the order of their published configs, for a head that is given no names.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    'nuScenes': (
        *('car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle'),
        *('bicycle', 'pedestrian', 'traffic_cone'),
    ),
    'Waymo': ('Car', 'Pedestrian', 'Cyclist'),
}
# Classes whose objects are so small that each cell may be a peak of its own.
SMALL_CLASSES: dict[str, tuple[str, ...]] = {
    'nuScenes': ('pedestrian', 'traffic_cone'),
    'Waymo': ('Pedestrian', 'Cyclist'),
}
# Classes whose boxes suppress each other, and how near (metres of circle NMS, overlap of rotated NMS).
NMS_RADIUS: dict[str, dict[str, float]] = {
    'nuScenes': dict(pedestrian=0.175, traffic_cone=0.175),
    'Waymo': dict(Car=0.7, Pedestrian=0.7, Cyclist=0.7),
}


def class_tables(
    num_classes: int, class_names: Optional[Sequence[str]], test_cfg: dict
) -> tuple[list[int], dict[int, float]]:
    """The labels of small classes, and how near boxes of a label suppress each other; see `TransFusionHead`."""
    dataset = str(test_cfg.get('dataset'))
    small = test_cfg.get('small_classes', SMALL_CLASSES.get(dataset, ()))
    radius = test_cfg.get('nms_radius', NMS_RADIUS.get(dataset, {}))
    names = list(CLASS_NAMES.get(dataset, ()) if class_names is None else class_names)
    if len(names) != num_classes and class_names is not None:
        raise ValueError(
            f'class_names must name the {num_classes} classes (num_classes), was {names}'
        )
    if len(names) != num_classes and (small or radius):
        print_log(
            f'class_names of the head is not given, and num_classes is {num_classes}, not the {len(names)} of '
            f'{dataset}: no class is treated as a small one',
            logger='current',
            level=logging.WARNING,
        )
        names = []
    if test_cfg.get('nms_type') is not None and not (names and radius):
        raise ValueError(
            f'nms_type {test_cfg["nms_type"]!r} needs class_names of the head, was {class_names}, and for dataset '
            f'{dataset!r} nms_radius of test_cfg (class -> metres or overlap), was {radius}'
        )
    labels = {name: label for label, name in enumerate(names)}
    found = {labels[name]: value for name, value in radius.items() if name in labels}
    return [labels[name] for name in small if name in labels], found
