"""From the instances of the last layer to boxes, scores and tracks."""

from typing import Optional, Union

from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import Tensor

from ...ops.sizes import takes_whole_numbers
from .box3d import decode


class SparseBox3DDecoder:
    """Chooses the best instances.

    Args:
        num_output (int): at most so many boxes.
        score_threshold (float, optional): least class score of a box, and of a new track.
        sorted (bool): whether the boxes are in the order of their class scores.
    """

    @takes_whole_numbers
    def __init__(
        self, num_output: int = 300, score_threshold: Optional[float] = None, sorted: bool = True
    ) -> None:
        self.num_output = num_output
        self.score_threshold = score_threshold
        self.sorted = sorted

    def decode(
        self,
        logits: Tensor,
        states: Tensor,
        ids: Optional[Tensor] = None,
        quality: Optional[Tensor] = None,
    ) -> list:
        """Decode.

        Args:
            logits (Tensor): [B, A, classes].
            states (Tensor): [B, A, 11].
            ids (Tensor, optional): int64 [B, A], tracks. With them a box has one class, its best one.
            quality (Tensor, optional): logits of centerness and yawness, [B, A, 2]; the scores are then those of the
                classes times the centerness.

        Returns:
            list[InstanceData]: bboxes_3d with 9 columns, scores_3d, labels_3d, cls_scores; instances_id where
            there are ids.
        """
        scores = logits.sigmoid()
        labels = None
        if ids is not None:
            scores, labels = scores.max(-1)
            scores = scores.unsqueeze(-1)
        classes = scores.shape[-1]
        count = min(self.num_output, scores[0].numel())
        cls_scores, places = scores.flatten(1).topk(count, dim=1, sorted=self.sorted)
        index = places // classes
        labels = places % classes if labels is None else labels.gather(1, index)
        scores = cls_scores
        if quality is not None:
            scores = cls_scores * quality[..., 0].gather(1, index).sigmoid()
            order = scores.argsort(1, descending=True)
            columns = scores, cls_scores, labels, index
            scores, cls_scores, labels, index = (x.gather(1, order) for x in columns)
        boxes = decode(states)[..., :9].take_along_dim(index[..., None], 1)
        if ids is not None:
            ids = ids.gather(1, index)

        found = []
        for i in range(len(scores)):
            keep: Union[slice, Tensor] = slice(None)
            if self.score_threshold is not None:
                keep = cls_scores[i] >= self.score_threshold
            values = dict(scores_3d=scores[i], labels_3d=labels[i], cls_scores=cls_scores[i])
            if ids is not None:
                values['instances_id'] = ids[i]
            values = {name: value[keep] for name, value in values.items()}
            box = LiDARInstance3DBoxes(boxes[i][keep], box_dim=9, origin=(0.5, 0.5, 0.5))
            found.append(InstanceData(bboxes_3d=box, **values))
        return found
