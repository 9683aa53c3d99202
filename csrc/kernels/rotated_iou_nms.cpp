// Non-maximum suppression. Boxes come sorted, the best first. rotated_nms_mask writes a bit for
// each pair: whether one box suppresses the other. rotated_nms_keep chooses in groups of 64 boxes:
// within a group the scalar unit decides one box after the other; then the vector unit joins the
// bits of the kept boxes, which tell what they suppress in later groups.
#include "common/buffers.h"
#include "common/chunks.h"
#include "common/events.h"
#include "common/run.h"
#include "rotated_iou/rows.h"
#include "rotated_iou_tiling.h"

namespace mxd::kernels {
namespace {

// fp32 scores as two words of keys, so that ascending keys are descending scores. The bits of a
// negative number, read as an unsigned integer, grow as the number falls: they serve as they are.
// The bits of other numbers are reversed.
class RotatedNmsKeys {
  static constexpr int32_t kChunk = 4096;
  static_assert(6 * kChunk * kWord <= kUbBytes);

 public:
  __aicore__ inline RotatedNmsKeys(TPipe& pipe, const RotatedNmsKeysTiling& tiling, GM_ADDR scores,
                                   GM_ADDR high, GM_ADDR low)
      : tiling_(tiling) {
    Bind(scores_, scores, high_, high, low_, low);
    Take(pipe, kChunk, score_, high_half_, low_half_, sign_, scratch_);
    number_ = Take<uint8_t>(pipe, kChunk / 8);
  }

  __aicore__ inline void Process() {
    ForEachChunk(tiling_.count, kChunk, [&](int32_t begin, int32_t count) __aicore__ {
      const int32_t whole = RoundUp(count, kBlockWords), lanes = RoundUp(count, kLanes);
      SetWait<HardEvent::V_MTE2>();
      DataCopyPad(score_, scores_[begin], Words(count),
                  {true, 0, static_cast<uint8_t>(whole - count), 0.0f});
      SetWait<HardEvent::MTE2_V>();
      if (whole < lanes) Duplicate(score_[whole], 0.0f, lanes - whole);
      PipeBarrier<PIPE_V>();
      MakeKeys(lanes);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(high_[begin], high_half_, Words(count));
      DataCopyPad(low_[begin], low_half_, Words(count));
      SetWait<HardEvent::MTE3_V>();
    });
  }

 private:
  __aicore__ inline void MakeKeys(int32_t count) {
    constexpr uint32_t kNotANumber = 0x7fc00000;
    const LocalTensor<int32_t> bits = score_.ReinterpretCast<int32_t>();
    // NaN comes first, as PyTorch sorts, and -0 counts as 0.
    Compare(number_, score_, score_, CMPMODE::EQ, count);
    Adds(score_, score_, 0.0f, count);
    PipeBarrier<PIPE_V>();
    Duplicate(scratch_, static_cast<int32_t>(kNotANumber), count);
    PipeBarrier<PIPE_V>();
    Select(score_, number_, score_, scratch_.ReinterpretCast<float>(),
           SELMODE::VSEL_TENSOR_TENSOR_MODE, count);
    PipeBarrier<PIPE_V>();
    ShiftRight(high_half_, bits, 16, count);
    ShiftRight(sign_, bits, 31, count);  // -1 of negative numbers, else 0
    PipeBarrier<PIPE_V>();
    ShiftLeft(low_half_, high_half_, 16, count);
    PipeBarrier<PIPE_V>();
    Sub(low_half_, bits, low_half_, count);
    // high: 32767 - high half; of negative numbers 65536 + high half.
    // low: 65535 - low half; of negative numbers the low half.
    Muls(scratch_, sign_, -2, count);
    PipeBarrier<PIPE_V>();
    Adds(scratch_, scratch_, -1, count);  // 1 of negative numbers, else -1
    PipeBarrier<PIPE_V>();
    Mul(high_half_, high_half_, scratch_, count);
    Mul(low_half_, low_half_, scratch_, count);
    PipeBarrier<PIPE_V>();
    Muls(scratch_, sign_, -32769, count);
    Muls(sign_, sign_, 65535, count);
    PipeBarrier<PIPE_V>();
    Add(high_half_, high_half_, scratch_, count);
    Add(low_half_, low_half_, sign_, count);
    PipeBarrier<PIPE_V>();
    Adds(high_half_, high_half_, 32767, count);
    Adds(low_half_, low_half_, 65535, count);
  }

  const RotatedNmsKeysTiling tiling_;
  GlobalTensor<float> scores_;
  GlobalTensor<int32_t> high_, low_;
  LocalTensor<float> score_;
  LocalTensor<int32_t> high_half_, low_half_, sign_, scratch_;
  LocalTensor<uint8_t> number_;
};

class RotatedNmsMask {
  static constexpr int32_t kRows = 256;   // of this block, at once
  static constexpr int32_t kNumbers = 8;  // of a row in UB, at most
  static constexpr int32_t kBuffers = 2;
  static constexpr int32_t kLabel = kBoxNumbers;
  static constexpr int32_t kBitBytes = kPairsAtOnce / 8;
  static_assert(kBitBytes % kBlockBytes == 0);
  static_assert(Overlap::Bytes(kPairsAtOnce) +
                    (kRows * kNumbers + kPairsAtOnce * (kNumbers + 5)) * kWord +
                    (kBuffers + 1) * kBitBytes <=
                kUbBytes);

 public:
  __aicore__ inline RotatedNmsMask(TPipe& pipe, const RotatedNmsTiling& tiling, GM_ADDR boxes,
                                   GM_ADDR mask)
      : tiling_(tiling), overlap_(pipe, kPairsAtOnce) {
    Bind(boxes_, boxes, mask_, mask);
    rows_ = Take<float>(pipe, kRows * kNumbers);
    columns_ = Take<float>(pipe, kPairsAtOnce * kNumbers);
    Take(pipe, kPairsAtOnce, numbers_, row_, label_, labels_, offset_);
    same_ = Take<uint8_t>(pipe, kBitBytes);
    bits_ = Take<uint8_t>(pipe, kBuffers * kBitBytes);
    written_.Init(pipe, kBuffers);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
    written_.SetAll();
    for (int32_t group = 0; group < tiling_.groups; group++) ProcessGroup(group);
    written_.WaitAll();
  }

 private:
  __aicore__ inline void ProcessGroup(int32_t group) {
    const int64_t before = static_cast<int64_t>(group) * tiling_.count;
    group_boxes_ = boxes_[before * tiling_.columns];
    group_mask_ = mask_[before * tiling_.pitch * kWord];
    const int32_t blocks = static_cast<int32_t>(GetBlockNum());
    for (int32_t first = GetBlockIdx(); first < tiling_.count; first += kRows * blocks) {
      const int32_t rows = MinOf(kRows, CeilDiv(tiling_.count - first, blocks));
      LoadRows(first, rows, blocks);
      // A box suppresses only boxes behind it, so a chunk is compared with the rows before its end.
      for (int32_t begin = first / kPairsAtOnce * kPairsAtOnce; begin < tiling_.count;
           begin += kPairsAtOnce) {
        LoadColumns(begin);
        for (int32_t row = 0; row < rows && first + row * blocks < begin + kPairsAtOnce; row++)
          Compare(row, first + row * blocks, begin);
      }
    }
  }

  // Rows `first`, first + blocks ...: each begins a block of 32 bytes.
  __aicore__ inline void LoadRows(int32_t first, int32_t rows, int32_t blocks) {
    const uint32_t bytes = static_cast<uint32_t>(tiling_.columns * kWord);
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(rows_, group_boxes_[static_cast<int64_t>(first) * tiling_.columns],
                {static_cast<uint16_t>(rows), bytes, (blocks - 1) * bytes, 0, 0}, {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_V>();
  }

  __aicore__ inline void LoadColumns(int32_t begin) {
    const int32_t count = MinOf(kPairsAtOnce, tiling_.count - begin);
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(columns_, group_boxes_[static_cast<int64_t>(begin) * tiling_.columns],
                Words(count * tiling_.columns), {false, 0, 0, 0});
    Mins(offset_, numbers_, count - 1, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
    Muls(offset_, offset_, tiling_.columns * kWord, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::MTE2_V>();
    TakeNumbers(overlap_, kPairsAtOnce, MinOf(tiling_.columns, kBoxNumbers), columns_, offset_,
                kPairsAtOnce);
    if (tiling_.columns > kLabel) {
      Gather(labels_, columns_, offset_.ReinterpretCast<uint32_t>(), kLabel * kWord, kPairsAtOnce);
      PipeBarrier<PIPE_V>();
    }
    if (tiling_.columns >= kBoxNumbers) overlap_.Prepare(kPairsAtOnce, kPairsAtOnce);
  }

  // The bits of box `i`, which is `row` of rows_, and the boxes from `begin` on.
  __aicore__ inline void Compare(int32_t row, int32_t i, int32_t begin) {
    const LocalTensor<uint8_t> bits = bits_[buffer_ * kBitBytes];
    Duplicate(row_, row * kBlockBytes, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
    TakeNumbers(overlap_, 0, MinOf(tiling_.columns, kBoxNumbers), rows_, row_, kPairsAtOnce);
    const bool circles = tiling_.columns < kBoxNumbers;
    if (!circles) overlap_.Prepare(0, kPairsAtOnce);
    const LocalTensor<float> measure = circles ? Distance() : overlap_.Measure(kIou, kPairsAtOnce);
    written_.Wait(buffer_);
    CompareScalar(bits, measure, tiling_.threshold,
                  circles             ? CMPMODE::LE
                  : tiling_.inclusive ? CMPMODE::GE
                                      : CMPMODE::GT,
                  kPairsAtOnce);
    if (tiling_.columns > kLabel) {
      Gather(label_, rows_, row_.ReinterpretCast<uint32_t>(), kLabel * kWord, kPairsAtOnce);
      PipeBarrier<PIPE_V>();
      AscendC::Compare(same_, label_, labels_, CMPMODE::EQ, kPairsAtOnce);
      PipeBarrier<PIPE_V>();
      And(bits.ReinterpretCast<uint16_t>(), bits.ReinterpretCast<uint16_t>(),
          same_.ReinterpretCast<uint16_t>(), kPairsAtOnce / 16);
    }
    SetWait<HardEvent::V_MTE3>();
    DataCopy(group_mask_[static_cast<int64_t>(i) * tiling_.pitch * kWord + begin / 8], bits,
             kBitBytes);
    written_.Set(buffer_);
    buffer_ = (buffer_ + 1) % kBuffers;
  }

  // The squared distance of the middles.
  __aicore__ inline LocalTensor<float> Distance() {
    const InOrder lanes(kPairsAtOnce);
    const auto x = overlap_.Numbers(kX), y = overlap_.Numbers(kY);
    lanes.Sub(label_, x[kPairsAtOnce], x);
    lanes.Mul(label_, label_, label_);
    lanes.Sub(labels_, y[kPairsAtOnce], y);
    lanes.Mul(labels_, labels_, labels_);
    lanes.Add(label_, label_, labels_);
    return label_;
  }

  const RotatedNmsTiling tiling_;
  const Overlap overlap_;
  GlobalTensor<float> boxes_, group_boxes_;
  GlobalTensor<uint8_t> mask_, group_mask_;
  LocalTensor<float> rows_, columns_, label_, labels_;
  LocalTensor<int32_t> numbers_, row_, offset_;
  LocalTensor<uint8_t> same_, bits_;
  Events<HardEvent::MTE3_V> written_;
  int32_t buffer_ = 0;
};

class RotatedNmsKeep {
  static constexpr int32_t kPiece = 256;  // words of a row, at once
  static constexpr int32_t kWords = kNmsMaxBoxes / 32;
  static_assert((kWords + kNmsGroup * (kPiece + kBlockWords + 1) + kNmsMaxValid) * kWord +
                    kNmsGroup * 8 + kBlockBytes <=
                kUbBytes);

 public:
  __aicore__ inline RotatedNmsKeep(TPipe& pipe, const RotatedNmsTiling& tiling, GM_ADDR mask,
                                   GM_ADDR order, GM_ADDR valid, GM_ADDR keep, GM_ADDR total)
      : tiling_(tiling), ordered_(order != nullptr), some_(valid != nullptr) {
    Bind(mask_, mask, order_, order, valid_, valid, keep_, keep, total_, total);
    gone_ = Take<int32_t>(pipe, kWords);
    rows_ = Take<int32_t>(pipe, kNmsGroup * kPiece);
    among_ = Take<int32_t>(pipe, kNmsGroup * kBlockWords);
    number_ = Take<int32_t>(pipe, kNmsGroup);
    kept_ = Take<int32_t>(pipe, 2 * kNmsGroup);
    out_ = Take<int32_t>(pipe, kBlockWords);
    here_ = Take<float>(pipe, kNmsMaxValid);
  }

  __aicore__ inline void Process() {
    for (int32_t group = GetBlockIdx(); group < tiling_.groups; group += GetBlockNum())
      ProcessGroup(group);
  }

 private:
  __aicore__ inline void ProcessGroup(int32_t group) {
    group_mask_ = mask_[static_cast<int64_t>(group) * tiling_.count * tiling_.pitch];
    group_keep_ = keep_[static_cast<int64_t>(group) * tiling_.kept_pitch * 2];
    found_ = 0;
    Begin(group);
    for (int32_t first = 0; first < tiling_.count; first += kNmsGroup) {
      const int32_t rows = MinOf(kNmsGroup, tiling_.count - first);
      SetWait<HardEvent::S_MTE2>();
      // Of each row the two words with the group's bits, in a block of 32 bytes of their own.
      LoadBits(among_, first, rows, first / 32, 2);
      if (ordered_) DataCopyPad(number_, order_[first], Words(rows), {false, 0, 0, 0});
      SetWait<HardEvent::MTE2_S>();
      SetWait<HardEvent::V_S>();
      Join(first, rows, Decide(first, rows));
    }
    SetWait<HardEvent::MTE3_S>();
    out_.SetValue(0, static_cast<int32_t>(found_));
    out_.SetValue(1, 0);
    SetWait<HardEvent::S_MTE3>();
    DataCopyPad(total_[group * kBlockWords], out_, Words(2));
  }

  // gone_: what is not valid, which is a bit for each box.
  __aicore__ inline void Begin(int32_t group) {
    if (!some_) {
      Duplicate(gone_, 0, tiling_.pitch);
      return;
    }
    const int32_t lanes = tiling_.pitch * 32;
    Duplicate(here_, 0.0f, lanes);
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(here_, valid_[static_cast<int64_t>(group) * tiling_.count], Words(tiling_.count),
                {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_V>();
    SetWait<HardEvent::S_V>();
    CompareScalar(gone_.ReinterpretCast<uint8_t>(), here_, 0.0f, CMPMODE::EQ, lanes);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void LoadBits(const LocalTensor<int32_t>& to, int32_t first, int32_t rows,
                                  int32_t word, int32_t words) {
    DataCopyPad(to, group_mask_[static_cast<int64_t>(first) * tiling_.pitch + word],
                {static_cast<uint16_t>(rows), static_cast<uint32_t>(words * kWord),
                 static_cast<uint32_t>((tiling_.pitch - words) * kWord), 0, 0},
                {false, 0, 0, 0});
  }

  // Writes the boxes of the group that are kept; returns their bits.
  __aicore__ inline uint64_t Decide(int32_t first, int32_t rows) {
    const LocalTensor<uint64_t> bits = among_.ReinterpretCast<uint64_t>();
    uint64_t left = ~gone_.ReinterpretCast<uint64_t>().GetValue(first / kNmsGroup);
    if (rows < kNmsGroup) left &= (uint64_t{1} << rows) - 1;
    int32_t kept = 0;
    SetWait<HardEvent::MTE3_S>();
    for (int32_t row = 0; row < rows; row++) {
      if ((left >> row & 1) == 0) continue;
      // The boxes behind that this one suppresses are no longer left.
      const uint64_t behind = ~uint64_t{1} << row;
      left &= ~(bits.GetValue(row * (kBlockBytes / 8)) & behind);
      const int32_t box = ordered_ ? number_.GetValue(row) : first + row;
      kept_.ReinterpretCast<int64_t>().SetValue(kept++, static_cast<int64_t>(box));
    }
    if (kept > 0) {
      SetWait<HardEvent::S_MTE3>();
      DataCopyPad(group_keep_[2 * found_], kept_, Words(2 * kept));
      found_ += kept;
    }
    return left;
  }

  // Adds to gone_ what the kept boxes suppress behind the group.
  __aicore__ inline void Join(int32_t first, int32_t rows, uint64_t kept) {
    SetWait<HardEvent::S_V>();
    const int32_t begin = (first + kNmsGroup) / 32 / kBlockWords * kBlockWords;
    for (int32_t word = begin; word < tiling_.pitch && kept != 0; word += kPiece) {
      const int32_t words = MinOf(kPiece, tiling_.pitch - word);
      SetWait<HardEvent::V_MTE2>();
      LoadBits(rows_, first, rows, word, words);
      SetWait<HardEvent::MTE2_V>();
      for (int32_t row = 0; row < rows; row++) {
        if ((kept >> row & 1) == 0) continue;
        const LocalTensor<uint16_t> gone = gone_[word].ReinterpretCast<uint16_t>();
        Or(gone, gone, rows_[row * words].ReinterpretCast<uint16_t>(), 2 * words);
        PipeBarrier<PIPE_V>();
      }
    }
  }

  const RotatedNmsTiling tiling_;
  const bool ordered_, some_;
  GlobalTensor<int32_t> mask_, group_mask_, order_, keep_, group_keep_, total_;
  GlobalTensor<float> valid_;
  LocalTensor<int32_t> gone_, rows_, among_, number_, kept_, out_;
  LocalTensor<float> here_;
  int64_t found_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// high and low int32 [count]: two words of a key for each of scores fp32 [count].
extern "C" __global__ __aicore__ void rotated_nms_keys(GM_ADDR scores, GM_ADDR high, GM_ADDR low,
                                                       RotatedNmsKeysTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::RotatedNmsKeys>(tiling, scores, high, low);
}

// mask int32 [groups, count, pitch]: bit j of row i is 1 where box i suppresses box j, of boxes
// fp32 [groups, count, columns]; bits of boxes before i have any value.
extern "C" __global__ __aicore__ void rotated_nms_mask(GM_ADDR boxes, GM_ADDR mask,
                                                       RotatedNmsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::RotatedNmsMask>(tiling, boxes, mask);
}

// keep int64 [groups, kept_pitch]: order int32 [count] (null: 0, 1, 2 ...) of those that no kept
// one before suppresses, total int64 [groups, 4] of them in its first column. valid fp32 [groups,
// count] is 0 for boxes that are left out (null: none is). A block works on whole groups.
extern "C" __global__ __aicore__ void rotated_nms_keep(GM_ADDR mask, GM_ADDR order, GM_ADDR valid,
                                                       GM_ADDR keep, GM_ADDR total,
                                                       RotatedNmsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::RotatedNmsKeep>(tiling, mask, order, valid, keep, total);
}
