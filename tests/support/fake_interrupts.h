// Interrupt lines and MSI vectors that only remember. Any thread.

#ifndef VIREO_TESTS_SUPPORT_FAKE_INTERRUPTS_H_
#define VIREO_TESTS_SUPPORT_FAKE_INTERRUPTS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "devices/interrupt.h"

namespace vireo {

class FakeInterruptLine final : public InterruptLine {
 public:
  void Assert() override {
    const MutexLock lock(mutex_);
    if (!asserted_) ++edges_;
    asserted_ = true;
  }
  void Deassert() override {
    const MutexLock lock(mutex_);
    asserted_ = false;
  }

  bool asserted() const {
    const MutexLock lock(mutex_);
    return asserted_;
  }
  // How often the line went from idle to asserted since this was last asked.
  int TakeEdges() {
    const MutexLock lock(mutex_);
    const int edges = edges_;
    edges_ = 0;
    return edges;
  }

 private:
  mutable Mutex mutex_;
  bool asserted_ ABSL_GUARDED_BY(mutex_) = false;
  int edges_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeMsiSink final : public MsiSink {
 public:
  explicit FakeMsiSink(uint16_t vectors) : vectors_(vectors), states_(vectors) {}

  uint16_t vectors() const override { return vectors_; }
  absl::Status Program(uint16_t vector, const MsiMessage& message) override {
    const MutexLock lock(mutex_);
    State& state = states_.at(vector);
    ++programs_;
    if (full_) {
      state.message.reset();
      return absl::ResourceExhaustedError("no route left");
    }
    state.message = message;
    return absl::OkStatus();
  }
  void Clear(uint16_t vector) override {
    const MutexLock lock(mutex_);
    states_.at(vector).message.reset();
  }
  void Signal(uint16_t vector) override {
    const MutexLock lock(mutex_);
    ++states_.at(vector).signals;
  }

  // What the vector raises; nothing when it was cleared or never programmed.
  std::optional<MsiMessage> message(uint16_t vector) const {
    const MutexLock lock(mutex_);
    return states_.at(vector).message;
  }
  // Signals to the vector since this was last asked.
  int TakeSignals(uint16_t vector) {
    const MutexLock lock(mutex_);
    const int signals = states_.at(vector).signals;
    states_.at(vector).signals = 0;
    return signals;
  }
  // Calls of Program() since this was last asked.
  int TakePrograms() {
    const MutexLock lock(mutex_);
    const int programs = programs_;
    programs_ = 0;
    return programs;
  }
  // From now on Program() fails.
  void SetFull() {
    const MutexLock lock(mutex_);
    full_ = true;
  }

 private:
  struct State {
    std::optional<MsiMessage> message;
    int signals = 0;
  };

  const uint16_t vectors_;
  mutable Mutex mutex_;
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  int programs_ ABSL_GUARDED_BY(mutex_) = 0;
  bool full_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAKE_INTERRUPTS_H_
