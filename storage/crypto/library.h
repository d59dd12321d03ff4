// libgcrypt, made ready. Before its first use.

#ifndef VIREO_STORAGE_CRYPTO_LIBRARY_H_
#define VIREO_STORAGE_CRYPTO_LIBRARY_H_

namespace vireo::crypto {

// Any thread, any number of times.
void InitialiseLibrary();

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_LIBRARY_H_
