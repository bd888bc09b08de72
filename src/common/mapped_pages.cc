#include "common/mapped_pages.h"

#include <cerrno>

#include <sys/mman.h>

namespace fedmoe {

Status ReadPages(const std::string& path, void* base, std::size_t length) {
  while (::madvise(base, length, MADV_POPULATE_READ) < 0) {
    if (errno == EFAULT || errno == EHWPOISON) {
      return Internal("read " + path + ": a mapped page cannot be read");
    }
    if (errno != EINTR && errno != EAGAIN) break;  // of other reasons a touch will tell
  }
  return Status::Ok();
}

}  // namespace fedmoe
