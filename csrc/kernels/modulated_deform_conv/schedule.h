// The work in units, batches and steps. It depends on sizes alone: the cube core and the vector
// cores of a block go through the same steps, each by itself.
#pragma once

#include "../common/integers.h"
#include "../modulated_deform_conv_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::modulated_deform_conv {

using namespace AscendC;

// A tile of the output positions of an image, with some groups and some panels of each.
struct Unit {
  int32_t image;
  int32_t first, count;  // positions
  int32_t group, groups;
  int32_t panel, panels;
  int32_t part;  // forward: the pass; backward: the lane
  int32_t copy;  // backward: which gradient of the image it adds to
};

// Some kernel points of a unit and a deform group.
struct Batch {
  Unit unit;
  int32_t deform_group;
  int32_t block, end;     // channels, in blocks of the whole image
  int32_t point, points;  // the first and how many
};

// A kernel point and some channels of a batch.
struct Step {
  int32_t point;
  int32_t block, blocks;
};

// Units of the forward pass: pass by pass, as each has its own weight. A pass is some groups with
// all of their panels, or some panels of a group.
class Passes {
 public:
  __aicore__ inline Passes(const ModulatedDeformConvTiling& tiling, int32_t block)
      : tiling_(tiling),
        panel_passes_(CeilDiv(tiling.panels, tiling.pass_panels)),
        tiles_(static_cast<int64_t>(tiling.batch) * Tiles(tiling)),
        units_(CeilDiv(tiling.groups, tiling.pass_groups) * panel_passes_ * tiles_),
        unit_(block) {}
  __aicore__ inline bool Done() const { return unit_ >= units_; }
  __aicore__ inline void Next() { unit_ += GetBlockNum(); }
  __aicore__ inline void Describe(Unit& unit) const {
    const int64_t tile = unit_ % tiles_;
    unit.part = static_cast<int32_t>(unit_ / tiles_);
    unit.copy = 0;
    unit.image = static_cast<int32_t>(tile / Tiles(tiling_));
    unit.first = static_cast<int32_t>(tile % Tiles(tiling_)) * tiling_.tile;
    unit.count = MinOf(tiling_.tile, Positions(tiling_) - unit.first);
    unit.group = unit.part / panel_passes_ * tiling_.pass_groups;
    unit.groups = MinOf(tiling_.pass_groups, tiling_.groups - unit.group);
    unit.panel = unit.part % panel_passes_ * tiling_.pass_panels;
    unit.panels = MinOf(tiling_.pass_panels, tiling_.panels - unit.panel);
  }

 private:
  const ModulatedDeformConvTiling& tiling_;
  const int32_t panel_passes_;
  const int64_t tiles_, units_;
  int64_t unit_;
};

// Units of the backward pass: those of a lane in order, by one block. What they add to is added to
// in the same order whatever the number of blocks.
class Lanes {
 public:
  __aicore__ inline Lanes(const ModulatedDeformConvTiling& tiling, int32_t block)
      : tiling_(tiling), lane_(block) {
    Open();
  }
  __aicore__ inline bool Done() const { return lane_ >= tiling_.lanes; }
  __aicore__ inline void Next() {
    if (++tile_ < end_) return;
    lane_ += static_cast<int32_t>(GetBlockNum());
    Open();
  }
  __aicore__ inline void Describe(Unit& unit) const {
    const int32_t tiles = Tiles(tiling_);
    unit.part = lane_;
    unit.image = static_cast<int32_t>(tile_ / tiles);
    unit.copy = lane_ - LaneOf(tiling_, static_cast<int64_t>(unit.image) * tiles);
    unit.first = static_cast<int32_t>(tile_ % tiles) * tiling_.tile;
    unit.count = MinOf(tiling_.tile, Positions(tiling_) - unit.first);
    unit.group = unit.panel = 0;
    unit.groups = tiling_.groups;
    unit.panels = tiling_.panels;
  }

 private:
  __aicore__ inline void Open() {
    if (Done()) return;
    tile_ = LaneBegin(tiling_, lane_);
    end_ = LaneBegin(tiling_, lane_ + 1);
  }

  const ModulatedDeformConvTiling& tiling_;
  int32_t lane_;
  int64_t tile_ = 0, end_ = 0;  // of all images
};

// The batches of this block's units, in order: by deform groups, by kernel points.
template <typename Units>
class Batches {
 public:
  // `list_taps`: taps of a batch, at most.
  __aicore__ inline Batches(const ModulatedDeformConvTiling& tiling, int32_t block,
                            int32_t list_taps)
      : tiling_(tiling), most_points_(list_taps / (tiling.tile / 2)), units_(tiling, block) {
    if (!Done()) OpenUnit();
  }

  __aicore__ inline bool Done() const { return units_.Done(); }
  __aicore__ inline const Batch& Get() const { return batch_; }
  // Whether the batch is the last one of its unit.
  __aicore__ inline bool Last() const {
    return batch_.point + batch_.points == Points(tiling_) && batch_.end == unit_end_;
  }

  __aicore__ inline void Next() {
    if (Last()) {
      units_.Next();
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
    units_.Describe(unit);
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
  const int32_t most_points_;
  Units units_;
  int32_t unit_end_ = 0;
  Batch batch_;
};

// The steps of the batches, one after the other.
template <typename Units>
class Steps {
 public:
  __aicore__ inline Steps(const ModulatedDeformConvTiling& tiling, int32_t block, int32_t list_taps)
      : tiling_(tiling), batches_(tiling, block, list_taps) {
    if (!Done()) OpenBatch();
  }

  __aicore__ inline bool Done() const { return batches_.Done(); }
  __aicore__ inline const Unit& unit() const { return batches_.Get().unit; }
  __aicore__ inline const Step& Get() const { return step_; }
  // How many steps and units came before.
  __aicore__ inline int32_t number() const { return number_; }
  __aicore__ inline int32_t unit_number() const { return unit_number_; }
  // Whether the step is the first or the last one of its unit.
  __aicore__ inline bool First() const { return first_; }
  __aicore__ inline bool Last() const {
    const Batch& batch = batches_.Get();
    return batches_.Last() && step_.block + step_.blocks == batch.end &&
           step_.point + 1 == batch.point + batch.points;
  }

  __aicore__ inline void Next() {
    const Batch& batch = batches_.Get();
    ++number_;
    first_ = Last();
    unit_number_ += first_;
    if (++step_.point < batch.point + batch.points) return;
    step_.point = batch.point;
    step_.block += step_.blocks;
    if (step_.block < batch.end) {
      OpenBlocks();
      return;
    }
    batches_.Next();
    if (!Done()) OpenBatch();
  }

 private:
  __aicore__ inline void OpenBatch() {
    step_.point = batches_.Get().point;
    step_.block = batches_.Get().block;
    OpenBlocks();
  }
  __aicore__ inline void OpenBlocks() {
    step_.blocks = MinOf(tiling_.chunk_blocks, batches_.Get().end - step_.block);
  }

  const ModulatedDeformConvTiling& tiling_;
  Batches<Units> batches_;
  Step step_{};
  int32_t number_ = 0, unit_number_ = 0;
  bool first_ = true;
};

// Calls body(step) for each step of a batch.
template <typename Body>
__aicore__ inline void ForEachStep(const ModulatedDeformConvTiling& tiling, const Batch& batch,
                                   const Body& body) {
  for (int32_t block = batch.block; block < batch.end; block += tiling.chunk_blocks)
    for (int32_t point = batch.point; point < batch.point + batch.points; ++point)
      body(Step{point, block, MinOf(tiling.chunk_blocks, batch.end - block)});
}

}  // namespace mxd::kernels::modulated_deform_conv
