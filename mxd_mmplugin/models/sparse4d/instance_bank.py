"""The instances that a frame begins with: learned ones, and those that the frame before hands on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ...ops.sizes import takes_whole_numbers, whole
from .box3d import Frame


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows [B, k, ...] of values [B, A, ...] by an index [B, k]."""
    size = values.shape[1]
    first = torch.arange(0, len(index) * size, size, device=index.device)[:, None]
    rows = (index + first).flatten()
    # Two indices of different shapes would be for the AI CPU of an NPU.
    return values.flatten(0, 1).index_select(0, rows).unflatten(0, index.shape)


def _read(path: Union[str, Path]) -> np.ndarray:
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f'anchor {path} is not a .npy file of numbers: {error}') from None


@dataclass
class History:
    """What a frame hands on.

    Attributes:
        feature (Tensor): [B, T, C], of the most confident instances.
        anchor (Tensor): states, [B, T, 11].
        confidence (Tensor): [B, T].
        frame (Frame): when and where.
        ids (Tensor): int64 [B, T], of the tracks; -1 where there is none.
        next_id (Tensor): int64 [B], that of the next new track.
    """

    feature: Tensor
    anchor: Tensor
    confidence: Tensor
    frame: Frame
    ids: Tensor
    next_id: Tensor

    def rows(self, index: Tensor) -> 'History':
        """The samples of an index on the CPU, int64 [n]."""
        names = 'feature', 'anchor', 'confidence', 'ids', 'next_id'
        on_device = index.to(self.feature.device)
        return History(
            frame=self.frame.rows(index), **{name: getattr(self, name)[on_device] for name in names}
        )


class InstanceBank(BaseModule):
    """Learned instances, and a memory of the frame before for each sample of the batch.

    A sample of a batch goes on where the sample with the same `Frame.sequence` was in the batch before; with another
    sequence, too long an interval, or the same time again it begins anew. So do all after `eval()`, and whenever
    training goes on after it.

    Args:
        num_anchor (int): instances.
        embed_dims (int): channels.
        anchor (str, Path or array): states [num_anchor or more, 11], or the .npy file with them, see
            `mxd sparse4d-anchors`.
        anchor_handler (dict, optional): config of what moves boxes from frame to frame.
        num_temp_instances (int): how many instances a frame hands on; none below 1.
        default_time_interval (float): seconds between frames where it is not known.
        confidence_decay (float): factor of an old confidence.
        anchor_grad, feat_grad (bool): whether boxes and features are trained.
        max_time_interval (float): frames further apart, in seconds, know nothing of each other.
        max_queue_length (int): feature maps of how many frames before are kept in inference (v1).
    """

    @takes_whole_numbers
    def __init__(
        self,
        num_anchor: int,
        embed_dims: int,
        anchor: Union[str, Path, ArrayLike],
        anchor_handler: Optional[dict] = None,
        num_temp_instances: int = 0,
        default_time_interval: float = 0.5,
        confidence_decay: float = 0.6,
        anchor_grad: bool = True,
        feat_grad: bool = True,
        max_time_interval: float = 2,
        max_queue_length: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(anchor, (str, Path)):
            if not Path(anchor).is_file():
                raise FileNotFoundError(
                    f'anchor {anchor} is not there: make it with `mxd sparse4d-anchors INFO.pkl --out {anchor}`'
                )
            path, anchor = anchor, _read(anchor)
            where = f'anchor {path}'
        else:
            where = 'anchor'
        num_anchor = whole('num_anchor', num_anchor, 1)
        try:
            states = torch.from_numpy(np.asarray(anchor, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise ValueError(f'{where} must be numbers of the shape [n, 11]: {error}') from None
        if states.ndim != 2 or states.shape[1] != 11:
            raise ValueError(f'{where} must have the shape [n, 11], was {list(states.shape)}')
        if len(states) < num_anchor:
            raise ValueError(
                f'{where} must have {num_anchor} rows or more (num_anchor), has {len(states)}'
            )
        states = states[:num_anchor].clone()
        if not states.isfinite().all():
            raise ValueError(
                f'{where} must be finite, and row {int((~states.isfinite()).any(1).nonzero()[0])} is not'
            )
        self.embed_dims = embed_dims
        self.num_anchor = len(states)
        self.num_temp_instances = max(num_temp_instances, 0)
        if self.num_temp_instances > self.num_anchor:
            raise ValueError(
                f'num_temp_instances must be at most the {self.num_anchor} anchors, was {num_temp_instances}'
            )
        self.default_time_interval = default_time_interval
        self.confidence_decay = confidence_decay
        self.max_time_interval = max_time_interval
        self.max_queue_length = max_queue_length
        self.anchor_handler = None if anchor_handler is None else MODELS.build(anchor_handler)
        self.anchor = nn.Parameter(states, requires_grad=anchor_grad)
        self.instance_feature = nn.Parameter(
            torch.zeros(self.num_anchor, embed_dims), requires_grad=feat_grad
        )
        self.reset()

    def init_weights(self) -> None:
        """Features of the instances; the boxes are those of `anchor`."""
        if self.instance_feature.requires_grad:
            nn.init.xavier_uniform_(self.instance_feature)

    def reset(self) -> None:
        """Forget all frames."""
        self.history: Optional[History] = None
        self.before: Optional[History] = None  # the history as the present frame sees it
        self.frame: Optional[Frame] = None  # the present one
        self.known: Optional[Tensor] = None  # bool [B], CPU: which of its samples have a history
        self.rows: Optional[Tensor] = (
            None  # int64 [B], CPU: which sample of the batch before theirs is
        )
        self._queue: list[tuple[Sequence[Tensor], Frame]] = []

    def train(self, mode: bool = True) -> 'InstanceBank':
        """As `nn.Module.train`; a run over other data knows nothing of the run before it."""
        if not mode or not self.training:
            self.reset()
        return super().train(mode)

    def _match(self, frame: Frame, past: Frame) -> tuple:
        """Which sample of `past` each of `frame` goes on from, int64 [B], and whether it does, bool [B]; CPU."""
        if frame.sequence is None or past.sequence is None:
            same = len(frame) == len(past)
            rows = torch.arange(len(frame)) if same else torch.full((len(frame),), -1)
        else:
            places = {name: i for i, name in enumerate(past.sequence)}
            rows = torch.tensor([places.get(name, -1) for name in frame.sequence])
        known = rows >= 0
        rows = rows.clamp(min=0)
        seconds = (frame.timestamp - past.timestamp[rows]).abs()
        return rows, known & (seconds > 0) & (seconds <= self.max_time_interval)

    def get(self, frame: Frame) -> tuple:
        """What the frame begins with.

        Args:
            frame (Frame): the present one.

        Returns:
            tuple: features [B, A, C] and states [B, A, 11] of the learned instances; features [B, T, C] and
            states [B, T, 11] of those handed on, or None where no sample has any, else those of samples
            that begin anew count nothing (`known`); seconds since then, [B].
        """
        size = len(frame)
        features = self.instance_feature.expand(size, -1, -1)
        anchors = self.anchor.expand(size, -1, -1)
        seconds = features.new_full((size,), self.default_time_interval)
        self.frame, self.before, self.rows = frame, None, None
        self.known = torch.zeros(size, dtype=torch.bool)
        if self.history is None:
            return features, anchors, None, None, seconds
        self.rows, self.known = rows, known = self._match(frame, self.history.frame)
        if not any(known.tolist()):
            return features, anchors, None, None, seconds
        self.before = before = self.history.rows(rows)
        self.mask = known.to(features.device)
        passed = frame.interval(before.frame).to(features)
        seconds = torch.where(self.mask, passed, seconds)
        before.anchor = self.project(before.anchor)
        return features, anchors, before.feature, before.anchor, seconds

    def project(self, anchor: Tensor) -> Tensor:
        """States [B, n, 11] of the frame before, as they are in the present one; as they were without a handler."""
        if self.anchor_handler is None or self.before is None or self.frame is None:
            return anchor
        past = self.before.frame
        transform, seconds = past.transform_to(self.frame), self.frame.interval(past)
        return self.anchor_handler.anchor_projection(
            anchor, transform.to(anchor), seconds.to(anchor)
        )

    def queue(self, frame: Frame) -> list:
        """(feature_maps, frame) of the frames before, the latest first, for v1."""
        found = []
        for maps, past in self._queue:
            rows, known = self._match(frame, past)
            if any(known.tolist()):
                on_device = rows.to(maps[0].device)
                past = past.rows(rows)
                past.valid = known
                found.append(([maps[0][on_device], *maps[1:]], past))
        return found

    def update(self, feature: Tensor, anchor: Tensor, confidence: Tensor) -> tuple:
        """Put the instances handed on before the most confident of the present frame's.

        Args:
            feature (Tensor): [B, A or more, C]; what is beyond the anchors is left as it is.
            anchor (Tensor): states, [B, A or more, 11].
            confidence (Tensor): logits, [B, A or more, classes].

        Returns:
            tuple[Tensor, Tensor]: features and states, in the shapes they came in.
        """
        if self.before is None:
            return feature, anchor
        confidence = confidence[:, : self.num_anchor].amax(-1)
        index = confidence.topk(self.num_anchor - self.num_temp_instances, dim=1).indices
        updated = []
        for old, new in ((self.before.feature, feature), (self.before.anchor, anchor)):
            present = new[:, : self.num_anchor]
            joined = torch.cat([old, take(present, index)], 1)
            joined = torch.where(self.mask[:, None, None], joined, present)
            updated.append(torch.cat([joined, new[:, self.num_anchor :]], 1))
        return tuple(updated)

    @torch.no_grad()
    def cache(
        self,
        feature: Tensor,
        anchor: Tensor,
        logits: Tensor,
        frame: Frame,
        feature_maps: Optional[Sequence[Tensor]] = None,
        threshold: Optional[float] = None,
    ) -> Tensor:
        """Keep the most confident instances for the next frame, and name them.

        Args:
            feature (Tensor): [B, A, C].
            anchor (Tensor): states, [B, A, 11].
            logits (Tensor): [B, A, classes].
            frame (Frame): the present one.
            feature_maps (Sequence[Tensor], optional): to be kept for v1.
            threshold (float, optional): a new track needs this confidence.

        Returns:
            Tensor: int64 [B, A], the track of each instance, counted from 0 in each sequence; -1 where there is none.
        """
        if self.max_queue_length > 0 and not self.training and feature_maps is not None:
            self._queue = [(feature_maps, frame), *self._queue][: self.max_queue_length]
        confidence = logits.amax(-1).sigmoid()
        ids = torch.full_like(confidence, -1, dtype=torch.int64)
        next_id = ids.new_zeros(len(ids))
        kept, before = self.num_temp_instances, self.before
        if before is not None:
            ids[:, :kept] = torch.where(self.mask[:, None], before.ids, -1)
            next_id = torch.where(self.mask, before.next_id, 0)
        new = ids < 0
        if threshold is not None:
            new &= confidence >= threshold
        order = new.cumsum(1, dtype=torch.int32)  # which an NPU sums fast
        ids = torch.where(new, next_id[:, None] + order - 1, ids)
        next_id = next_id + new.sum(1)
        if kept > 0:
            if before is not None:
                faded = torch.where(
                    self.mask[:, None], before.confidence * self.confidence_decay, 0
                )
                confidence = torch.cat(
                    [torch.maximum(confidence[:, :kept], faded), confidence[:, kept:]], 1
                )
            confidence, index = confidence.topk(kept, dim=1)
            feature, anchor = (take(x, index).detach() for x in (feature, anchor))
            self.history = History(feature, anchor, confidence, frame, take(ids, index), next_id)
        return ids
