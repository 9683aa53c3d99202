// The work in units and steps. It depends on sizes alone: the cube core and the vector cores of a
// block go through the same steps, each by itself.
#pragma once

#include "../common/integers.h"
#include "../modulated_deform_conv_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::modulated_deform_conv {

// A tile of the output positions of an image, and a pass: some groups with all of their panels, or
// some panels of a group.
struct Unit {
  int32_t pass, image;
  int32_t first, count;  // positions
  int32_t group, groups;
  int32_t panel, panels;
};

// Some kernel points of a unit and a deform group.
struct Batch {
  Unit unit;
  int32_t deform_group;
  int32_t block, end;     // channels, in blocks of the whole image
  int32_t point, points;  // the first and how many
};

// The batches of this block, in order: unit by unit, by deform groups, by kernel points.
class Schedule {
 public:
  __aicore__ inline Schedule(const ModulatedDeformConvTiling& tiling, int32_t block,
                             int32_t most_points)
      : tiling_(tiling),
        most_points_(most_points),
        tiles_(CeilDiv(Positions(tiling), tiling.tile)),
        panel_passes_(CeilDiv(tiling.panels, tiling.pass_panels)),
        units_(static_cast<int64_t>(CeilDiv(tiling.groups, tiling.pass_groups)) * panel_passes_ *
               tiling.batch * tiles_),
        unit_(block) {
    if (!Done()) OpenUnit();
  }

  __aicore__ inline bool Done() const { return unit_ >= units_; }
  __aicore__ inline const Batch& Get() const { return batch_; }
  // Whether the batch is the last one of its unit.
  __aicore__ inline bool Last() const {
    return batch_.point + batch_.points == Points(tiling_) && batch_.end == unit_end_;
  }

  __aicore__ inline void Next() {
    if (Last()) {
      unit_ += GetBlockNum();
      if (!Done()) OpenUnit();
      return;
    }
    int32_t point = batch_.point + batch_.points;
    if (point == Points(tiling_)) {
      point = 0;
      OpenDeformGroup(batch_.deform_group + 1);
    }
    OpenPoints(point);
  }

 private:
  __aicore__ inline void OpenUnit() {
    Unit& unit = batch_.unit;
    const int64_t tile = unit_ % (static_cast<int64_t>(tiling_.batch) * tiles_);
    unit.pass = static_cast<int32_t>(unit_ / (static_cast<int64_t>(tiling_.batch) * tiles_));
    unit.image = static_cast<int32_t>(tile / tiles_);
    unit.first = static_cast<int32_t>(tile % tiles_) * tiling_.tile;
    unit.count = MinOf(tiling_.tile, Positions(tiling_) - unit.first);
    unit.group = unit.pass / panel_passes_ * tiling_.pass_groups;
    unit.groups = MinOf(tiling_.pass_groups, tiling_.groups - unit.group);
    unit.panel = unit.pass % panel_passes_ * tiling_.pass_panels;
    unit.panels = MinOf(tiling_.pass_panels, tiling_.panels - unit.panel);
    unit_end_ = (unit.group + unit.groups) * tiling_.group_blocks;
    OpenDeformGroup(unit.group * tiling_.group_blocks / tiling_.deform_blocks);
    OpenPoints(0);
  }
  __aicore__ inline void OpenDeformGroup(int32_t deform_group) {
    batch_.deform_group = deform_group;
    batch_.block =
        MaxOf(batch_.unit.group * tiling_.group_blocks, deform_group * tiling_.deform_blocks);
    batch_.end = MinOf(unit_end_, (deform_group + 1) * tiling_.deform_blocks);
  }
  __aicore__ inline void OpenPoints(int32_t point) {
    batch_.point = point;
    batch_.points = MinOf(most_points_, Points(tiling_) - point);
  }

  const ModulatedDeformConvTiling& tiling_;
  const int32_t most_points_, tiles_, panel_passes_;
  const int64_t units_;
  int64_t unit_;
  int32_t unit_end_ = 0;
  Batch batch_;
};

// A kernel point and some channels of a batch, in blocks of the whole image.
struct Step {
  int32_t point;
  int32_t block, blocks;
};

// Calls body(step) for each step of a batch.
template <typename Body>
__aicore__ inline void ForEachStep(const ModulatedDeformConvTiling& tiling, const Batch& batch,
                                   const Body& body) {
  for (int32_t block = batch.block; block < batch.end; block += tiling.chunk_blocks)
    for (int32_t point = batch.point; point < batch.point + batch.points; ++point)
      body(Step{point, block, MinOf(tiling.chunk_blocks, batch.end - block)});
}

// Kernel points of a batch, for any cores that share a ring.
constexpr int32_t kListTaps = 576;
__aicore__ constexpr int32_t BatchPoints(const ModulatedDeformConvTiling& tiling) {
  return kListTaps / (tiling.tile / 2);
}

}  // namespace mxd::kernels::modulated_deform_conv
