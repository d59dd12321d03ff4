// The images that the model, power-cut and fault tests try: every axis of the format, in one place.

#ifndef VIREO_TESTS_MODEL_SHAPES_H_
#define VIREO_TESTS_MODEL_SHAPES_H_

#include <vector>

#include "tests/model/disk_shape.h"

namespace vireo {

std::vector<DiskShape> AllShapes();

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_SHAPES_H_
