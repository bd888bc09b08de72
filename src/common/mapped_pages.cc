#include "common/mapped_pages.h"

#include <cerrno>

#include <sys/mman.h>

namespace fedmoe {

Status ReadPages(const std::string& path, void* base, std::size_t length) {
  while (::madvise(base, length, MADV_POPULATE_READ) < 0) {
    if (errno == EFAULT || errno == EHWPOISON) {
      return Internal("read " + path + ": a mapped page cannot be read");
    }
    if (errno != EINTR) break;  // an older kernel, or too little memory: who touches it will see
  }
  return Status::Ok();
}

}  // namespace fedmoe
