#include "storage/lines.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

namespace fedmoe {
namespace {

constexpr std::uint64_t kWindowBytes = 1 << 20;

}  // namespace

Result<bool> ForEachLine(FileSystem& files, const std::string& path,
                         const std::function<Status(std::string_view)>& use) {
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<RandomAccessFile> file, files.Open(path));
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
  std::string pending;
  for (std::uint64_t at = 0; at < size;) {
    const std::uint64_t count = std::min(kWindowBytes, size - at);
    const std::size_t known = pending.size();
    pending.resize(known + count);
    FEDMOE_RETURN_IF_ERROR(
        file->ReadAt(at, std::as_writable_bytes(std::span(pending).subspan(known))));
    at += count;
    std::size_t begin = 0;
    for (std::size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      FEDMOE_RETURN_IF_ERROR(use(std::string_view(pending).substr(begin, end - begin)));
    }
    pending.erase(0, begin);
    if (pending.size() > kMaxLineBytes) return DataLoss(path + ": a line has no end");
  }
  return !pending.empty();
}

}  // namespace fedmoe
