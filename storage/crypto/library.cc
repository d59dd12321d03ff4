#include "storage/crypto/library.h"

#include <gcrypt.h>

#include "base/check.h"

namespace vireo::crypto {

void InitialiseLibrary() {
  static const bool ready = [] {
    VIREO_CHECK(gcry_check_version(GCRYPT_VERSION) != nullptr, "libgcrypt is the one built with");
    // Locked pages would need a limit that containers seldom grant; Secret wipes what it held.
    gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    return true;
  }();
  static_cast<void>(ready);
}

}  // namespace vireo::crypto
