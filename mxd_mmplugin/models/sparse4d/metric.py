"""Detection and tracking measured by the nuScenes devkit."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

from mmdet3d.evaluation import NuScenesMetric
from mmdet3d.evaluation.metrics.nuscenes_metric import lidar_nusc_box_to_global, output_to_nusc_box
from mmengine.logging import print_log

from ...packages import is_installed

EVAL_SETS = {'v1.0-mini': 'mini_val', 'v1.0-trainval': 'val'}
SUMMARY = (
    *('amota', 'amotp', 'recall', 'motar', 'mota', 'motp', 'mt', 'ml', 'faf', 'tp', 'fp', 'fn'),
    *('ids', 'frag', 'tid', 'lgd'),
)


class NuScenesTrackingMetric(NuScenesMetric):
    """mmdet3d's `NuScenesMetric`, and the devkit's tracking (AMOTA) where the boxes have tracks.

    Args:
        tracking (bool): whether tracks are measured; it needs the package motmetrics.
        tracking_threshold (float): boxes with a lower class score belong to no track.
        tracking_version (str): the devkit's configuration.
        kwargs: see `NuScenesMetric`.
    """

    def __init__(
        self,
        *args: Any,
        tracking: bool = True,
        tracking_threshold: float = 0.2,
        tracking_version: str = 'tracking_nips_2019',
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if tracking and not is_installed('motmetrics'):
            raise ImportError(
                'tracking needs the package motmetrics: install it, or set tracking=False'
            )
        self.tracking = tracking
        self.tracking_threshold = tracking_threshold
        self.tracking_version = tracking_version

    def compute_metrics(self, results: list) -> dict:
        """Both measures."""
        found = super().compute_metrics(results)
        if self.tracking and not self.format_only:
            found.update(self._measure(self._tracks(results)))
        elif self.tracking:
            self.write_tracks(results, Path(self.jsonfile_prefix) / 'tracks.json')
        return found

    def write_tracks(self, results: Sequence[dict], path: Union[str, Path]) -> Path:
        """Write the tracks in the devkit's form.

        Args:
            results (Sequence[dict]): of `process`.
            path (str or Path): the file.

        Returns:
            Path: the file.
        """
        return self._write(self._tracks(results), Path(path))

    def _tracks(self, results: Sequence[dict]) -> dict:
        """The devkit's boxes with tracks, a list for each frame's token."""
        from nuscenes.eval.common.config import config_factory

        names = config_factory(self.tracking_version).tracking_names
        classes, frames = self.dataset_meta['classes'], {}
        for result in results:
            info = self.data_infos[result['sample_idx']]
            found = result['pred_instances_3d']
            if 'instances_id' not in found:
                raise ValueError(
                    'the boxes have no instances_id: with_instance_id of the head must be True, or '
                    'tracking of the metric False'
                )
            keep = found['cls_scores'] >= self.tracking_threshold
            found = {name: values[keep] for name, values in found.items()}
            boxes = output_to_nusc_box(found)[0]
            for box, track in zip(boxes, found['instances_id'].tolist()):
                box.token = str(track)
            boxes = lidar_nusc_box_to_global(info, boxes, classes, self.eval_detection_configs)
            frames[info['token']] = [
                dict(
                    sample_token=info['token'],
                    translation=box.center.tolist(),
                    size=box.wlh.tolist(),
                    rotation=box.orientation.elements.tolist(),
                    velocity=box.velocity[:2].tolist(),
                    tracking_name=classes[box.label],
                    tracking_score=float(box.score),
                    tracking_id=box.token,
                )
                for box in boxes
                if classes[box.label] in names
            ]
        return frames

    def _write(self, frames: dict, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(meta=self.modality, results=frames)))
        return path

    def _measure(self, frames: dict) -> dict:
        """Run the devkit on tracks; it prints its table."""
        if not any(frames.values()):
            print_log('no box is confident enough for a track: AMOTA 0', logger='current')
            return {'tracking/amota': 0.0}
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.tracking.evaluate import TrackingEval

        with tempfile.TemporaryDirectory() as folder:
            measure = TrackingEval(
                config=config_factory(self.tracking_version),
                result_path=str(self._write(frames, Path(folder) / 'tracks.json')),
                eval_set=EVAL_SETS[self.version],
                output_dir=folder,
                nusc_version=self.version,
                nusc_dataroot=self.data_root,
                verbose=True,
            )
            summary = measure.main(render_curves=False)
        print_log(f'AMOTA {summary["amota"]:.3f}, AMOTP {summary["amotp"]:.3f}', logger='current')
        return {f'tracking/{name}': float(summary[name]) for name in SUMMARY}
