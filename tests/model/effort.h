// How much tests do, and from which seed on. The environment says: VIREO_SEED is the first seed
// ("random": another one each time), which tests print with every problem; VIREO_EFFORT multiplies
// what a test does (in percent).

#ifndef VIREO_TESTS_MODEL_EFFORT_H_
#define VIREO_TESTS_MODEL_EFFORT_H_

#include <cstdint>

#include "tests/model/disk_shape.h"

namespace vireo {

uint64_t FirstSeed();
uint64_t Scaled(uint64_t amount, const DiskShape& shape);

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_EFFORT_H_
