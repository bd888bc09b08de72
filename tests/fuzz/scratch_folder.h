// A folder for parsers that want a path; gone with the program. Each input overwrites its files.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include <stdlib.h>
#include <unistd.h>

#include "tests/fuzz/fuzz_check.h"

namespace fedmoe {

class ScratchFolder {
 public:
  ScratchFolder() : path_(Root() + "/fedmoe_fuzz_XXXXXX") {
    FUZZ_CHECK(::mkdtemp(path_.data()) != nullptr, path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  // Writes PATH/name, with the folders above it, and returns its path.
  std::string Write(const std::string& name, std::string_view bytes) const {
    const std::filesystem::path path = std::filesystem::path(path_) / name;
    std::ofstream stream(path, std::ios::binary);
    if (!stream.is_open()) {
      std::filesystem::create_directories(path.parent_path());
      stream.open(path, std::ios::binary);
    }
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    FUZZ_CHECK(stream.good(), path.string());
    return path.string();
  }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  // In memory, where there is such a place.
  static std::string Root() {
    const char* const memory = "/dev/shm";
    return ::access(memory, W_OK) == 0 ? memory : std::filesystem::temp_directory_path().string();
  }

  std::string path_;
};

}  // namespace fedmoe
