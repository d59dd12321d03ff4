// A network namespace for a test alone: interfaces made in it disturb nobody and are gone with it.

#ifndef VIREO_NET_NET_TEST_NAMESPACE_H_
#define VIREO_NET_NET_TEST_NAMESPACE_H_

#include <string>

namespace vireo {

// Moves the calling thread into a new, empty network namespace; threads that it starts follow.
// Empty on success, else why not, for GTEST_SKIP(). Also refuses where there are no taps or bridges
// to be had.
std::string EnterFreshNetworkNamespace();

}  // namespace vireo

#endif  // VIREO_NET_NET_TEST_NAMESPACE_H_
